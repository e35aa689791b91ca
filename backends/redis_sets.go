package backends

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Sets are decided by one script for each repository. How they wait is in
// redis_sets_wait.go.

// AcquireAll takes the locks of a set, or none. See [enhanced.SetLocker].
func (b *RedisBackend) AcquireAll(ctx context.Context, requests []*enhanced.EnhancedLockRequest, wait bool) ([]*enhanced.EnhancedLock, error) {
	config := b.config.Load()
	set, err := newSetToTake(requests, min(config.RedisLockTTL, config.MaxTimeout), config.MaxTimeout, b.ExcludesByLegacyKey())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if wait && config.EnablePriorityQueue {
		a, err := b.waitForSet(ctx, config.QueueTimeout, set)
		for range set.asked {
			b.turns.countTurn(time.Since(start), err)
		}
		return set.inOrder(a.set), set.setTimeoutError(err)
	}
	a, err := b.acquireSet(ctx, set, false)
	for range set.asked {
		countRequest(&b.recorder, err == nil, time.Since(start), err)
	}
	a.report(ctx, err)
	if err != nil {
		return nil, err
	}
	return set.inOrder(a.set), nil
}

// acquireSet decides a set. One that can wait, and has to, enters the queues.
func (b *RedisBackend) acquireSet(ctx context.Context, set lockSet, wait bool) (acquisition, error) {
	s := &redisSet{lockSet: set, mode: "all", repository: set.requests[0].Resource.Namespace, owner: set.requests[0].Owner(), wait: wait}
	replaced, err := b.decideSet(ctx, set.operation(), s)
	switch {
	case err != nil:
		return acquisition{}, err
	case s.waits:
		return acquisition{waits: true}, nil
	}
	a := acquisitionOf(replaced.Held)
	a.claimed = replaced.claimed
	return a, nil
}

// ReplaceAll makes the wanted locks all that an owner holds in a repository. What
// stock Atlantis has locked for it and nothing here has seen yet stays. See
// [enhanced.SetLocker].
func (b *RedisBackend) ReplaceAll(ctx context.Context, repository string, owner enhanced.Owner, wanted []*enhanced.EnhancedLockRequest) (*enhanced.ReplacedLocks, error) {
	config := b.config.Load()
	set, err := newSetToHold(repository, owner, wanted, min(config.RedisLockTTL, config.MaxTimeout), config.MaxTimeout, b.ExcludesByLegacyKey())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	replaced, err := b.decideSet(ctx, fmt.Sprintf("replace the locks of %s in %q", owner, repository),
		&redisSet{lockSet: set, mode: "replace", repository: repository, owner: owner})
	if err != nil {
		for range set.asked {
			countRequest(&b.recorder, false, time.Since(start), err)
		}
		return nil, err
	}
	for range replaced.Taken {
		countRequest(&b.recorder, true, time.Since(start), nil)
	}
	return replaced.answer(ctx, set), nil
}

// redisSet is a set and what has been found out about it.
type redisSet struct {
	lockSet
	*RedisBackend
	operation, mode, repository string
	owner                       enhanced.Owner
	stock                       []string
	// wait says that it can wait, and waits that it does.
	wait, waits bool
	// judged is what is to be done about a cycle of waits, nil report for none, and
	// about the request that closes it.
	judged judgement
	about  string
	// entries are what the owner holds, or has reserved, beside the set.
	entries []indexEntry
	// elsewhere are the resources that are held by a lock on another one, which has
	// the same key in stock Atlantis' form.
	elsewhere []enhanced.Blocked
}

// decideSet runs the script, after doing what is due on the resources.
func (b *RedisBackend) decideSet(ctx context.Context, operation string, s *redisSet) (*replacement, error) {
	s.RedisBackend, s.operation = b, operation
	args, err := s.requestArgs()
	if err != nil {
		return nil, err
	}
	s.stock = b.stockKeys(resourcesOf(s.requests)...)
	for range maxFollow {
		all, stock := append(s.args(), args...), s.stock
		for _, entry := range s.entries {
			all = append(all, entry.key)
			stock = append(stock, b.stockKeys(entry.resource)...)
		}
		a, err := b.step(ctx, operation, b.scripts.sets, enhanced.RepositoryTag(s.repository), s.repository, stock, all...)
		if err != nil {
			return nil, err
		}
		done, replaced, err := s.read(ctx, a)
		if done || err != nil {
			return replaced, err
		}
	}
	return nil, enhanced.NewBackendError(operation, fmt.Errorf("what is due on the set changes all the time"))
}

func resourcesOf(requests []*enhanced.EnhancedLockRequest) []enhanced.ResourceIdentifier {
	resources := make([]enhanced.ResourceIdentifier, len(requests))
	for i, r := range requests {
		resources[i] = r.Resource
	}
	return resources
}

// args are the script's own arguments, but for the requests and what is to be freed.
func (s *redisSet) args() []any {
	head, config := "", s.config.Load()
	if len(s.requests) > 0 {
		head = headCommit(s.requests[0])
	}
	waiting := s.waitingArgs(s.wait, false)
	return []any{
		s.mode, s.owner.String(), indexPrefix(s.owner), fmt.Sprintf("%d %s", len(s.requests), head),
		waiting[2], waiting[0], waiting[1], waiting[3], checkLimit(config, s.wait),
		s.judged.digest, s.about, s.judged.record, strings.Join(s.judged.moved, "\n"),
	}
}

// requestArgs are the arguments for the requests.
func (s *redisSet) requestArgs() ([]any, error) {
	args := make([]any, 0, 8*len(s.requests))
	preserves := s.config.Load().PreserveLegacyFormat
	for _, r := range s.requests {
		payload, err := encodeProjectLock(r.ProjectLock())
		if err != nil {
			return nil, enhanced.NewInvalidError("the request can't be stored: %v", err)
		}
		note, metadata, err := metadataLines(r.Metadata)
		if err != nil {
			return nil, enhanced.NewInvalidError("metadata: %v", err)
		}
		lease, flag := int64(0), "-"
		if r.Timeout != enhanced.NoTimeout {
			lease = r.Timeout.Microseconds()
		}
		if preserves && s.mirrors(r.Resource) {
			flag = "m"
		}
		args = append(args, r.Resource.Key(), int(r.Priority), lease, r.ID, note, metadata, payload, flag)
	}
	return args, nil
}

// read reads the script's answer; done is false when it is to be asked again.
func (s *redisSet) read(ctx context.Context, a answer) (done bool, replaced *replacement, err error) {
	n, _ := strconv.Atoi(a.value(0)) //nolint:errcheck // where it is a number, a script counts
	switch a.status {
	case "done":
		replaced, err = s.granted(ctx, a)
		return true, replaced, err
	case "again":
		replaced = &replacement{}
		for i, r := range s.requests {
			lock, err := s.lockIn(a.value(2*i), a.value(2*i+1), r.Resource)
			if err != nil {
				return true, nil, err
			}
			replaced.Held = append(replaced.Held, lock)
		}
		return true, replaced, nil
	case "listed":
		for _, key := range a.values {
			s.entries = append(s.entries, newIndexEntry(s.repository, key, key))
		}
		if count := len(s.requests) + len(s.entries); count > enhanced.MaxSetSize {
			return true, nil, tooManyError(s.repository, s.owner, count)
		}
		return false, nil, nil
	case "due":
		return false, nil, s.settle(ctx, a.values)
	case "held":
		return true, nil, s.refusal(n, a.values[1:])
	case "waits":
		if s.waits = true; a.value(0) == "1" {
			s.recorder.Unchecked()
		}
		return true, nil, nil
	case "full":
		length, _ := strconv.Atoi(a.value(1)) //nolint:errcheck // a script counts
		return true, nil, setQueueFullError(s.requests[n].Resource, length, s.config.Load().MaxQueueSize, len(s.requests))
	case "cycle":
		return false, nil, s.judge(ctx, a)
	case "deadlock":
		return true, nil, s.deadlockError(ctx)
	case "ended":
		return true, nil, endedRequestError(s.requests[n])
	case "reused":
		return true, nil, reusedError(s.requests[n])
	case "closing":
		return true, nil, closingError(s.requests[0].Resource, s.owner.String())
	case "closed":
		return true, nil, closedError(s.requests[0].Resource, s.owner.String())
	}
	return true, nil, enhanced.NewBackendError(s.operation, fmt.Errorf("unexpected answer %q", a.status))
}

// granted reads what was taken, kept and freed.
func (s *redisSet) granted(ctx context.Context, a answer) (*replacement, error) {
	replaced, acquired, values := &replacement{}, a.values[1], a.values[2:]
	tag := s.RedisBackend.repository(s.repository).tag
	for _, r := range s.requests {
		var lock *enhanced.EnhancedLock
		var err error
		if values[0] == "taken" {
			lock, err = grantedLock(r, tag, s.owner.String(), enhanced.SanitizeProjectLock(r.ProjectLock()), values[1], acquired, values[2])
		} else {
			lock, err = s.lockIn(values[1], values[2], r.Resource)
		}
		if err != nil {
			return nil, err
		}
		replaced.Held = append(replaced.Held, lock)
		if values[0] != "kept" {
			replaced.Taken = append(replaced.Taken, lock)
		}
		if values[0] == "claimed" {
			replaced.claimed = append(replaced.claimed, lock.ID)
		}
		values = values[3:]
	}
	replaced.Freed = s.releasedPage(s.repository, s.owner.Number, values)
	if a.value(0) == "1" {
		s.handOver(ctx)
	}
	return replaced, nil
}

// handOver has what was freed handed over. It is a step of its own, since to grant
// many takes longer than one script may. Whoever comes first does the same.
func (s *redisSet) handOver(ctx context.Context) {
	for at := 0; at < len(s.entries); at += redisStep {
		if _, err := s.settleAll(ctx, s.operation, s.entries[at:min(at+redisStep, len(s.entries))]); err != nil {
			s.logger.Warn("%s: handing over what was freed: %v", s.operation, err)
			return
		}
	}
}

// settle does what is due on resources, given by their keys.
func (s *redisSet) settle(ctx context.Context, keys []string) error {
	for at := 0; at < len(keys); at += redisStep {
		var entries []indexEntry
		for _, key := range keys[at:min(at+redisStep, len(keys))] {
			entries = append(entries, newIndexEntry(s.repository, key, key))
		}
		a, err := s.settleAll(ctx, s.operation, entries)
		if err != nil {
			return err
		}
		for i, entry := range entries {
			if err := s.settled(ctx, entry.resource, a.value(3*i), a.value(3*i+1)); err != nil {
				return err
			}
		}
	}
	if len(s.elsewhere) > 0 {
		return enhanced.NewSetHeldError(len(s.requests), len(s.elsewhere), s.owner, s.elsewhere)
	}
	return nil
}

// settled follows what settling a resource has found.
func (s *redisSet) settled(ctx context.Context, resource enhanced.ResourceIdentifier, status, value string) error {
	switch status {
	case "unreadable":
		s.elsewhere = append(s.elsewhere, enhanced.Blocked{Resource: resource, Record: value})
	case "stock":
		lock, err := s.follow(ctx, s.operation, resource, value)
		switch {
		case isCorrupt(err):
			s.elsewhere = append(s.elsewhere, enhanced.Blocked{Resource: resource, Record: stockKey(resource)})
		case err != nil:
			return err
		case lock != nil && lock.Resource != resource:
			s.elsewhere = append(s.elsewhere, enhanced.Blocked{Resource: resource, Holder: lock})
		}
	case "old":
		mine, err := s.followOld(ctx, s.operation, resource, value)
		switch {
		case isCorrupt(err):
			key, _ := oldStockKey(resource)
			s.elsewhere = append(s.elsewhere, enhanced.Blocked{Resource: resource, Record: key})
		case err != nil:
			return err
		case !mine:
			for i, r := range s.requests {
				if r.Resource == resource {
					s.stock[2*i+1] = s.stock[2*i]
				}
			}
		}
	}
	return nil
}

// refusal names what is held.
func (s *redisSet) refusal(count int, values []string) error {
	var blocked []enhanced.Blocked
	for i := 0; i+3 < len(values); i += 4 {
		resource, err := enhanced.ParseResourceKey(s.repository, values[i])
		if err != nil {
			return enhanced.NewBackendError(s.operation, err)
		}
		b := enhanced.Blocked{Resource: resource, Record: s.keys.state(enhanced.RepositoryTag(s.repository))}
		if lock, err := s.lockIn(values[i+2], values[i+3], resource); err == nil {
			if b.Holder = lock; values[i+1] == "kept" { // it is no lock
				lock.ID, lock.State = "", enhanced.LockStatePending
			}
		}
		blocked = append(blocked, b)
	}
	if len(blocked) == 0 {
		return enhanced.NewBackendError(s.operation, fmt.Errorf("script %s refused and named nobody", s.scripts.sets.name))
	}
	return enhanced.NewSetHeldError(len(s.requests), count, s.owner, blocked)
}
