package backends

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// A set that waits has a waiter in the queue of each of its resources, as on bbolt:
// see docs/adr/0020-sets-wait-whole.md and scripts/whole.lua. Its call is known by the
// first of its requests.

// redisSetCalls has the sets that calls of this process wait for.
type redisSetCalls struct {
	mu  sync.Mutex // protects all
	all map[requestName][]lockSet
}

func (c *redisSetCalls) add(set lockSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = make(map[requestName][]lockSet)
	}
	name := nameOf(set.requests[0])
	c.all[name] = append(c.all[name], set)
}

func (c *redisSetCalls) remove(set lockSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := nameOf(set.requests[0])
	sets := c.all[name]
	at := slices.IndexFunc(sets, func(other lockSet) bool { return &other.requests[0] == &set.requests[0] })
	if sets = slices.Delete(sets, at, at+1); len(sets) > 0 {
		c.all[name] = sets
	} else {
		delete(c.all, name)
	}
}

// of returns the sets of a name: several calls can ask with one ID, of which the
// store lets only those wait that ask for the same.
func (c *redisSetCalls) of(name requestName) []lockSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all[name])
}

// waitForSet takes the locks of a set, or waits up to limit for its turn.
func (b *RedisBackend) waitForSet(ctx context.Context, limit time.Duration, set lockSet) (acquisition, error) {
	b.sets.add(set)
	defer b.sets.remove(set)
	t := &turns{
		waiting: b.turns.waiting, store: redisSetQueue{b, set}, recorder: &b.recorder, logger: b.logger,
		watchSet: func(ctx context.Context) { b.watchSet(ctx, set) },
	}
	return t.inTurn(ctx, limit, set.requests[0])
}

// redisSetQueue is the store as turns need it for one set. The request that they
// know is the set's first.
type redisSetQueue struct {
	*RedisBackend
	set lockSet
}

func (b redisSetQueue) ask(ctx context.Context, r *enhanced.EnhancedLockRequest) (acquisition, error) {
	if err := b.listen(ctx); err != nil {
		return acquisition{}, err
	}
	a, err := b.acquireSet(ctx, b.set, true)
	if err == nil && a.granted {
		b.turns.answerSet(nameOf(r), a.lock, a.set, nil)
	}
	return a, err
}

func (b redisSetQueue) leave(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (departure, error) {
	a, err := b.step(ctx, "leave the queue with a set with "+r.Resource.String(), b.scripts.leaveSet,
		enhanced.RepositoryTag(r.Resource.Namespace), r.Resource.Namespace, nil,
		append([]any{event, r.Owner().String(), b.process}, namesOf(b.set)...)...)
	if err != nil {
		return departure{}, err
	}
	var left departure
	switch a.status {
	case "ended":
		left.ended = true
		return left, b.giveBackRest(ctx, b.set, a)
	case "has":
		// They are told here: turns know of one lock only.
		return left, b.tell(b.set, a)
	case "left":
		left.number, _ = strconv.Atoi(a.value(0)) //nolint:errcheck // a script counts
		left.of, _ = strconv.Atoi(a.value(1))     //nolint:errcheck // as above
		if resource, err := enhanced.ParseResourceKey(r.Resource.Namespace, a.value(2)); err == nil {
			left.holder, _ = b.lockIn(a.value(3), a.value(4), resource) //nolint:errcheck // then it is not named
		}
	}
	return left, nil
}

// giveBack releases all locks of the set.
func (b redisSetQueue) giveBack(ctx context.Context, _ *enhanced.EnhancedLock) error {
	return b.releaseEach(ctx, b.turns.setOf(nameOf(b.set.requests[0])))
}

// releaseEach releases locks that nobody was told of.
func (b *RedisBackend) releaseEach(ctx context.Context, locks []*enhanced.EnhancedLock) error {
	for _, lock := range locks {
		_, err := b.Release(ctx, enhanced.ReleaseRequest{LockID: lock.ID, Owner: lock.Owner, Reason: deserted})
		if err != nil && !isDecision(err) { // else it has ended already
			return err
		}
	}
	return nil
}

// giveBackRest releases what is left of a set's locks, of which one had ended before its
// call was told of them.
func (b *RedisBackend) giveBackRest(ctx context.Context, set lockSet, a answer) error {
	var rest []*enhanced.EnhancedLock
	for i, r := range set.requests {
		if lock, err := b.lockIn(a.value(2*i), a.value(2*i+1), r.Resource); err == nil {
			rest = append(rest, lock)
		}
	}
	return b.releaseEach(ctx, rest)
}

// namesOf are two arguments for each request of a set: resource and ID.
func namesOf(set lockSet) []any {
	args := make([]any, 0, 2*len(set.requests))
	for _, r := range set.requests {
		args = append(args, r.Resource.Key(), r.ID)
	}
	return args
}

// tell answers the calls of a set with its locks, of which a script has answered the
// parts.
func (b *RedisBackend) tell(set lockSet, a answer) error {
	locks := make([]*enhanced.EnhancedLock, len(set.requests))
	for i, r := range set.requests {
		var err error
		if locks[i], err = b.lockIn(a.value(2*i), a.value(2*i+1), r.Resource); err != nil {
			return err
		}
		b.locks.add(locks[i], false)
	}
	b.turns.answerSet(nameOf(set.requests[0]), locks[0], locks, nil)
	return nil
}

// watchSet is watch for a set.
func (b *RedisBackend) watchSet(ctx context.Context, set lockSet) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(b.attendSet(ctx, set))
	}
}

// attendSet looks after a set that waits once, and returns when to do it again.
func (b *RedisBackend) attendSet(ctx context.Context, set lockSet) time.Duration {
	often := min(watchInterval, b.config.Load().WaiterLiveness/4)
	until, err := b.lookAtSet(ctx, set, true)
	if err != nil && ctx.Err() == nil {
		b.logger.Err("looking after a set that waits: %v", err)
	}
	if err != nil || until == 0 {
		return often
	}
	return min(often, max(until, time.Millisecond))
}

// lookAtSet returns how long the next lease on the set's resources lasts, 0 when
// there is none. One that has its locks is told. One that waits no more is, too, with
// waits set, which says that it has.
func (b *RedisBackend) lookAtSet(ctx context.Context, set lockSet, waits bool) (time.Duration, error) {
	first := set.requests[0]
	s := &redisSet{
		lockSet: set, RedisBackend: b, operation: "look after " + set.operation(), repository: first.Resource.Namespace, owner: first.Owner(),
		stock: b.stockKeys(resourcesOf(set.requests)...),
	}
	args := append([]any{b.process, b.config.Load().WaiterLiveness.Microseconds()}, namesOf(set)...)
	for range maxFollow {
		a, err := b.step(ctx, s.operation, b.scripts.look, enhanced.RepositoryTag(s.repository), s.repository, s.stock, args...)
		if err != nil {
			return 0, err
		}
		switch a.status {
		case "waits":
			var now, expires int64
			if err := parseNumbers([]string{a.value(0), a.value(1)}, &now, &expires); err != nil || expires == 0 {
				return 0, err
			}
			return max(time.Duration(expires-now)*time.Microsecond, time.Millisecond), nil
		case "has":
			return 0, b.tell(set, a)
		case "ended", "gone":
			if waits {
				return 0, b.setGone(ctx, set, a)
			}
			return 0, nil
		}
		// What is held elsewhere is waited for like all else.
		if err := s.settle(ctx, a.values); err != nil && !isDecision(err) || len(s.elsewhere) > 0 {
			return 0, err
		}
	}
	return 0, nil // it is looked at again
}

// setGone answers a call whose set waits no more, and has not got its locks.
func (b *RedisBackend) setGone(ctx context.Context, set lockSet, a answer) error {
	first := set.requests[0]
	if a.status == "gone" {
		b.turns.answer(nameOf(first), nil, b.goneError(ctx, first.Resource, first.ID))
		return nil
	}
	err := b.giveBackRest(ctx, set, a)
	if err == nil {
		b.turns.answer(nameOf(first), nil, endedRequestError(first))
	}
	return err
}

// heardOfSet answers a call by a message of the scripts about its set: see heard,
// with the resource that it is about.
func (b *RedisBackend) heardOfSet(name requestName, message string) {
	sets := b.sets.of(name)
	r := b.turns.requestOf(name)
	if r == nil || len(sets) == 0 {
		return // its call has gone, and cleans up after itself
	}
	parts := append(strings.SplitN(message, "\n", 3), "", "")
	if parts[1] == "granted" {
		b.calls.Add(1) // while hear is counted
		go func() {
			defer b.calls.Done()
			for _, set := range sets {
				if _, err := b.lookAtSet(b.ending, set, false); err != nil && b.ending.Err() == nil {
					b.logger.Err("looking at a set that was granted: %v", err)
				}
			}
		}()
		return
	}
	resource, err := enhanced.ParseResourceKey(name.repository, parts[0])
	if err != nil {
		return // it is found out
	}
	if err := b.heardError(resource, r.Owner().String(), parts[1], parts[2]); err != nil {
		b.turns.answer(name, nil, err)
	}
}

// judge decides what is to be done about a cycle of waits that the set would close.
func (s *redisSet) judge(ctx context.Context, a answer) error {
	at := slices.IndexFunc(s.requests, func(r *enhanced.EnhancedLockRequest) bool { return r.ID == a.value(3) })
	if at < 0 {
		return enhanced.NewBackendError(s.operation, fmt.Errorf("the cycle is about request %q, which is not of the set", a.value(3)))
	}
	first := s.judged.report == nil
	judged, err := judgeRequest(s.requests[at], a)
	if err != nil {
		return enhanced.NewBackendError(s.operation, err)
	}
	s.judged, s.about = judged, a.value(3)
	for _, w := range judged.report.Cycle {
		if w.Owner == s.owner.String() && w.RequestID != s.about && first {
			// The walk is done again from there, so that the record is about it.
			s.about, s.judged.digest = w.RequestID, ""
		}
	}
	if !first {
		return nil
	}
	// What stock has released meanwhile is no edge.
	return s.settleWaits(ctx, s.operation, judged.report.Cycle)
}

// deadlockError is the answer to a set that would close a cycle of waits.
func (s *redisSet) deadlockError(ctx context.Context) error {
	at := slices.IndexFunc(s.requests, func(r *enhanced.EnhancedLockRequest) bool { return r.ID == s.about })
	resource := s.requests[max(at, 0)].Resource
	holder, err := s.LookupLock(ctx, resource)
	if err != nil {
		holder = nil // then it is not named
	}
	return enhanced.NewDeadlockError(resource, s.owner.String(), s.judged.report, holder)
}
