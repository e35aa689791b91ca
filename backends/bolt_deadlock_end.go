package backends

import (
	"context"
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"go.etcd.io/bbolt"
)

var _ enhanced.DeadlockStore = (*BoltBackend)(nil)

// WaitForGraph returns who waits for whom. See [enhanced.DeadlockStore].
func (b *BoltBackend) WaitForGraph(ctx context.Context) (*deadlock.Graph, error) {
	graph := deadlock.NewGraph()
	err := b.viewNow(ctx, "look for deadlocks", func(tx *bbolt.Tx, now int64) error {
		eachRepository(tx, now, func(r *repository) { b.waits(r).addTo(graph) })
		return nil
	})
	return graph, err
}

// addTo adds the repository's queues, who holds what is waited for, and what else
// those hold who wait. A reservation ends by itself, so it is no lock here.
func (b *boltWaits) addTo(graph *deadlock.Graph) {
	waited := make(map[enhanced.ResourceIdentifier]bool)
	owners := make(map[string]bool)
	b.allPlaces(func(resource enhanced.ResourceIdentifier, rank queue.Rank, data []byte) {
		w := b.read(resource, rank, data)
		if w == nil {
			return
		}
		if !waited[w.resource] {
			waited[w.resource] = true
			if holder, held := b.holderOf(b.repository, w.resource); held {
				graph.Hold(holder, enhanced.FormatGraphResource(w.resource))
			}
		}
		owners[w.Owner] = true
		graph.Wait(b.known(w))
	})
	if len(owners) == 0 {
		return
	}
	b.eachHeld(func(resourceKey string, _ heldLock, owner enhanced.Owner) {
		resource, err := enhanced.ParseResourceKey(b.name, resourceKey)
		if text := owner.String(); err == nil && owners[text] && !waited[resource] {
			graph.Hold(text, enhanced.FormatGraphResource(resource))
		}
	})
}

// EndDeadlock ends a deadlock. See [enhanced.DeadlockStore].
func (b *BoltBackend) EndDeadlock(ctx context.Context, ending enhanced.DeadlockEnding) (*enhanced.DeadlockReport, error) {
	about, err := aboutOf(ending)
	if err != nil {
		return nil, err
	}
	resource, err := enhanced.ParseGraphResource(about.Resource)
	if err != nil {
		return nil, enhanced.NewInvalidError("the deadlock's resource: %v", err)
	}
	return decide(ctx, b.committer, "end a deadlock on "+resource.String(), func(batch *batch) (*enhanced.DeadlockReport, error) {
		return b.repositoryStep(batch, resource.Namespace).endDeadlock(ending, about)
	})
}

// aboutOf returns the waiter that a deadlock's record is about.
func aboutOf(ending enhanced.DeadlockEnding) (deadlock.Waiter, error) {
	if len(ending.Cycle) < 2 {
		return deadlock.Waiter{}, enhanced.NewInvalidError("a deadlock has at least 2 waits, this one has %d", len(ending.Cycle))
	}
	if ending.Victim == nil {
		return ending.Cycle[0].Waiter, nil
	}
	for _, e := range ending.Cycle {
		if e.Resource == ending.Victim.Resource && e.Request == ending.Victim.Request {
			return e.Waiter, nil
		}
	}
	return deadlock.Waiter{}, enhanced.NewInvalidError("the victim %s is not in the cycle", ending.Victim.Owner)
}

// endDeadlock ends a deadlock if each of its edges is still there.
func (s *repositoryStep) endDeadlock(ending enhanced.DeadlockEnding, about deadlock.Waiter) (*enhanced.DeadlockReport, error) {
	for _, e := range ending.Cycle {
		resource, err := enhanced.ParseGraphResource(e.Resource)
		if err != nil {
			return nil, enhanced.NewInvalidError("the deadlock's resource: %v", err)
		}
		// What is due is done first: it may be what ends the deadlock.
		if _, _, err := s.backend.repositoryStep(s.batch, resource.Namespace).settle(resource); err != nil {
			return nil, err
		}
	}
	s.reopen()
	if !s.confirm(ending.Cycle) {
		return nil, nil
	}
	w := s.waiterOf(about.Request)
	if w == nil {
		return nil, nil
	}
	if ending.Victim == nil {
		report, err := enhanced.NewDeadlockReport(enhanced.DeadlockFound, ending.Policy, ending.Cycle, nil)
		if err != nil {
			return nil, err
		}
		return report, s.logDeadlock(&deadlockFinding{w, report, detected()})
	}
	source := s.backend.waits(s.repository)
	source.known(w)
	walked := deadlock.Walk(source, about, s.backend.config.Load().DeadlockCheckLimit)
	if moves := movesOf(walked); moves != nil {
		report, err := enhanced.NewDeadlockReport(enhanced.DeadlockReordered, "", walked.Cycle, moves)
		if err != nil {
			return nil, err
		}
		// It is about one who goes before others now, and about no victim.
		moved := report.Moved[0]
		in := s.backend.repositoryStep(s.batch, moved.Resource.Namespace)
		if w = in.waiterOf(moved.RequestID); w == nil {
			return nil, nil
		}
		return report, in.moveTogether(&deadlockFinding{w, report, detected()})
	}
	report, err := enhanced.NewDeadlockReport(enhanced.DeadlockVictim, ending.Policy, ending.Cycle, nil)
	if err != nil {
		return nil, err
	}
	c := detected()
	c.deadlock = report
	err = s.dequeue(w, enhanced.EventDeadlock, c,
		enhanced.NewDeadlockError(w.resource, w.Owner, report, nil))
	if err == nil && ending.ReleaseHeld {
		err = s.releaseHeldBy(w.Owner, ending)
	}
	return report, err
}

// confirm asks each edge's own repository.
func (s *repositoryStep) confirm(cycle deadlock.Cycle) bool {
	for _, e := range cycle {
		resource, err := enhanced.ParseGraphResource(e.Resource)
		if err != nil {
			return false
		}
		in := s.backend.waits(s.sibling(resource.Namespace))
		if !deadlock.Confirm(in, deadlock.Cycle{e}) {
			return false
		}
	}
	return true
}

// detected is the change of a detector.
func detected() change {
	return change{actor: enhanced.SystemStore, cause: enhanced.CauseDeadlock}
}

// releaseHeldBy frees, by force, the locks of an owner that the cycle waits for.
func (s *repositoryStep) releaseHeldBy(owner string, ending enhanced.DeadlockEnding) error {
	var errs []error
	for _, e := range ending.Cycle {
		resource, err := enhanced.ParseGraphResource(e.Resource)
		if err != nil || e.For != owner || e.Soft {
			continue
		}
		in := s.backend.repositoryStep(s.batch, resource.Namespace)
		if f := in.inspect(resource); f.status == held && f.record.Owner == owner {
			errs = append(errs, in.finish(&f, change{
				actor: enhanced.SystemStore, cause: enhanced.CauseForced,
				reason: victimReason(ending.Policy),
			}))
		}
	}
	return errors.Join(errs...)
}

// victimReason says why a lock is released by force.
func victimReason(policy string) string {
	return "a deadlock's victim gives up its lock, by the policy " + policy
}
