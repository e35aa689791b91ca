package backends

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
)

var _ enhanced.DeadlockStore = (*RedisBackend)(nil)

// WaitForGraph returns who waits for whom. See [enhanced.DeadlockStore].
func (b *RedisBackend) WaitForGraph(ctx context.Context) (*deadlock.Graph, error) {
	const operation = "look for deadlocks"
	var mu sync.Mutex // protects graph
	graph := deadlock.NewGraph()
	err := b.eachRepository(ctx, operation, func(ctx context.Context, tag string) error {
		requests, err := b.pending(ctx, operation, tag)
		if err != nil {
			return ignoreWrongType(err)
		}
		for page := range slices.Chunk(requests, redisStep) {
			part, err := b.waited(ctx, operation, tag, page)
			if err != nil {
				return ignoreWrongType(err)
			}
			mu.Lock()
			part(graph)
			mu.Unlock()
		}
		return nil
	})
	return graph, err
}

// waited reads what requests of one repository wait for, and what their owners hold.
// It returns what adds that to a graph.
func (b *RedisBackend) waited(ctx context.Context, operation, tag string, requests []*enhanced.EnhancedLockRequest) (func(*deadlock.Graph), error) {
	repository := requests[0].Resource.Namespace
	var resources []enhanced.ResourceIdentifier
	var owners []enhanced.Owner
	for _, r := range requests {
		if !slices.Contains(resources, r.Resource) {
			resources = append(resources, r.Resource)
		}
		if !slices.Contains(owners, r.Owner()) {
			owners = append(owners, r.Owner())
		}
	}
	args := []any{len(resources)}
	for _, r := range resources {
		args = append(args, r.Key())
	}
	for _, owner := range owners {
		args = append(args, indexPrefix(owner))
	}
	reply, err := b.run(ctx, operation, b.scripts.waited, b.keys.reading(tag), args...)
	if err != nil {
		return nil, err
	}
	at := len(resources)
	held := make([][]string, len(owners))
	for i := range owners {
		count := -1
		if at < len(reply) {
			if count, err = strconv.Atoi(reply[at]); err != nil {
				return nil, enhanced.NewBackendError(operation, err)
			}
		}
		if count < 0 || at+count >= len(reply) {
			return nil, enhanced.NewBackendError(operation, fmt.Errorf("script waited answered %d parts", len(reply)))
		}
		held[i], at = reply[at+1:at+1+count], at+1+count
	}
	return func(graph *deadlock.Graph) {
		for i, r := range resources {
			if reply[i] != "" {
				graph.Hold(reply[i], enhanced.FormatGraphResource(r))
			}
		}
		for _, r := range requests {
			graph.Wait(deadlock.Waiter{
				Owner: r.Owner().String(), Resource: enhanced.FormatGraphResource(r.Resource), Request: r.ID,
				Priority: int(r.Priority), Since: r.RequestedAt,
			})
		}
		for i, owner := range owners {
			for _, key := range held[i] {
				if !slices.ContainsFunc(resources, func(r enhanced.ResourceIdentifier) bool { return r.Key() == key }) {
					graph.Hold(owner.String(), repository+"\x00"+key)
				}
			}
		}
	}, nil
}

// EndDeadlock ends a deadlock. A step is about one repository: waits in others are
// looked at directly before it, and a lock in another one is released after it. See
// [enhanced.DeadlockStore].
func (b *RedisBackend) EndDeadlock(ctx context.Context, ending enhanced.DeadlockEnding) (*enhanced.DeadlockReport, error) {
	about, err := aboutOf(ending)
	if err != nil {
		return nil, err
	}
	outcome := enhanced.DeadlockVictim
	if ending.Victim == nil {
		outcome = enhanced.DeadlockFound
	}
	report, err := enhanced.NewDeadlockReport(outcome, ending.Policy, ending.Cycle, nil)
	if err != nil {
		return nil, enhanced.NewInvalidError("the deadlock's resource: %v", err)
	}
	at := slices.IndexFunc(ending.Cycle, func(e deadlock.Edge) bool { return e.Resource == about.Resource && e.Request == about.Request })
	e := redisEnding{b, ending, report, report.Cycle[max(at, 0)], "end a deadlock on " + report.Cycle[max(at, 0)].Resource.String()}
	// What is due is done first: it may be what ends the deadlock.
	if err := b.settleWaits(ctx, e.operation, report.Cycle); err != nil {
		return nil, err
	}
	for _, repository := range e.repositories() {
		if repository == e.about.Resource.Namespace {
			continue
		}
		if a, err := e.step(ctx, repository, "look", judgement{}); err != nil || a.status != "confirmed" {
			return nil, err
		}
	}
	return e.end(ctx)
}

// redisEnding is one ending.
type redisEnding struct {
	*RedisBackend
	ending    enhanced.DeadlockEnding
	report    *enhanced.DeadlockReport // of it where no waiter is moved
	about     enhanced.DeadlockWait
	operation string
}

// repositories are those of the cycle.
func (e redisEnding) repositories() (names []string) {
	for _, w := range e.report.Cycle {
		if !slices.Contains(names, w.Resource.Namespace) {
			names = append(names, w.Resource.Namespace)
		}
	}
	return names
}

// end ends the deadlock in the repository that it is about.
func (e redisEnding) end(ctx context.Context) (*enhanced.DeadlockReport, error) {
	repository, mode := e.about.Resource.Namespace, "end"
	judged, err := judgementOf(repository, "", e.report)
	if err != nil {
		return nil, err
	}
	if e.ending.Victim == nil {
		mode = "found"
	}
	for range maxFollow {
		a, err := e.step(ctx, repository, mode, judged)
		switch {
		case err != nil || a.status == "gone":
			return nil, err
		case a.status == "ended" && judged.report.Outcome == enhanced.DeadlockVictim:
			return judged.report, e.releaseElsewhere(ctx)
		case a.status == "ended":
			return judged.report, nil
		}
		if judged, err = e.judge(a); err != nil {
			return nil, enhanced.NewBackendError(e.operation, err)
		}
	}
	return nil, enhanced.NewBackendError(e.operation, fmt.Errorf("those who wait change all the time"))
}

// judge says whether moving waiters is enough.
func (e redisEnding) judge(a answer) (judgement, error) {
	repository := e.about.Resource.Namespace
	drawn, err := newDrawing(a)
	if err != nil {
		return judgement{}, err
	}
	walked, err := drawn.walk(repository, e.about.RequestID)
	if err != nil {
		return judgement{}, err
	}
	report := e.report
	if moves := movesOf(walked); moves != nil {
		if report, err = enhanced.NewDeadlockReport(enhanced.DeadlockReordered, "", walked.Cycle, moves); err != nil {
			return judgement{}, err
		}
	}
	return judgementOf(repository, drawn.digest, report)
}

// step runs the script in one repository, with the waits that are there.
func (e redisEnding) step(ctx context.Context, repository, mode string, judged judgement) (answer, error) {
	var waits, free []any
	var resources []enhanced.ResourceIdentifier
	count := 0
	for _, w := range e.report.Cycle {
		if w.Resource.Namespace != repository {
			continue
		}
		count++
		waits = append(waits, w.Owner, w.Resource.Key(), w.RequestID, w.For)
		if e.frees(w) {
			free, resources = append(free, w.Resource.Key()), append(resources, w.Resource)
		}
	}
	args := []any{mode, e.about.RequestID, e.config.Load().DeadlockCheckLimit, count, judged.digest, judged.record, len(judged.moved)}
	args = append(args, waits...)
	for _, request := range judged.moved {
		args = append(args, request)
	}
	args = append(append(args, e.reason()), free...)
	return e.RedisBackend.step(ctx, e.operation, e.scripts.endDeadlock, enhanced.RepositoryTag(repository), repository, e.stockKeys(resources...), args...)
}

// frees reports whether the victim's lock that a wait is about is to be released.
func (e redisEnding) frees(w enhanced.DeadlockWait) bool {
	return e.ending.ReleaseHeld && e.ending.Victim != nil && w.For == e.about.Owner && !w.Behind
}

func (e redisEnding) reason() string { return victimReason(e.ending.Policy) }

// releaseElsewhere releases the victim's locks in other repositories than that of its
// request. What it holds no more is nobody's business.
func (e redisEnding) releaseElsewhere(ctx context.Context) error {
	for _, w := range e.report.Cycle {
		if !e.frees(w) || w.Resource.Namespace == e.about.Resource.Namespace {
			continue
		}
		lock, err := e.LookupLock(ctx, w.Resource)
		if err == nil && lock.Owner == e.about.Owner {
			_, err = e.Release(ctx, enhanced.ReleaseRequest{LockID: lock.ID, Force: true, Actor: enhanced.SystemStore, Reason: e.reason()})
		}
		if err != nil && !isDecision(err) {
			return err
		}
	}
	return nil
}

// goneError is the answer to a request that is in no queue any more, and which nobody
// has told why: the log may say that it was a deadlock's victim.
func (b *RedisBackend) goneError(ctx context.Context, resource enhanced.ResourceIdentifier, request string) error {
	tag := enhanced.RepositoryTag(resource.Namespace)
	newest, err := b.readLog(ctx, tag, resource.Namespace, 1, 1)
	if err != nil {
		return notWaitingError(resource)
	}
	from := max(newest.last, logPage) - logPage + 1
	piece, err := b.readLog(ctx, tag, resource.Namespace, from, logPage)
	if err != nil {
		return notWaitingError(resource)
	}
	for _, r := range piece.Records {
		if r.RequestID == request && r.Deadlock != nil && r.Deadlock.Outcome == enhanced.DeadlockVictim {
			return enhanced.NewDeadlockError(resource, r.Waiter, r.Deadlock, nil)
		}
	}
	return notWaitingError(resource)
}
