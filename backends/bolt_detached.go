package backends

import (
	"errors"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// A detached waiter is left by a call that does not wait, Atlantis' TryLock. No
// process stands for it, so it outlives them. What it is given is a claim: its
// owner's next call makes it a lock, or it runs out like a lease.

// isAlive reports whether a waiter can still be given what it waits for.
func (b *BoltBackend) isAlive(repository string, w *waiterRecord, now int64) bool {
	if !w.Detached {
		return b.turns.isAlive(w.call(repository))
	}
	config := b.config.Load()
	return config.EnablePriorityQueue && !w.isLate(config, now)
}

// isLate reports whether a detached waiter has waited for long enough.
func (w *waiterRecord) isLate(config *enhanced.EnhancedConfig, now int64) bool {
	limit := config.DetachedQueueTimeout.Microseconds()
	return w.Detached && limit > 0 && now-w.Enqueued >= limit
}

// enqueueDetached leaves a waiter, unless the owner has one already: who asks
// again keeps its place. A full queue and a deadlock are no errors: the answer is
// that of a call that does not wait.
func (s *repositoryStep) enqueueDetached(r *enhanced.EnhancedLockRequest, f *finding) (acquisition, error) {
	refused := acquisition{lock: f.lock()}
	for _, own := range s.waitersOf(r.Owner().String(), r.Resource) {
		if own.Detached && s.backend.isAlive(s.name, own.waiterRecord, s.now) {
			return refused, nil
		}
	}
	if _, err := s.enqueue(r, f, true); err != nil && !errors.Is(err, enhanced.ErrQueueFull) && !errors.Is(err, enhanced.ErrDeadlock) {
		return acquisition{}, err
	}
	return refused, nil
}

// standIn returns the call that waits for what a detached waiter of the same
// owner is given: it needs no claim.
func (s *repositoryStep) standIn(w *waiter) *waiter {
	if !w.Detached {
		return w
	}
	for _, own := range s.waitersOf(w.Owner, w.resource) {
		if !own.Detached && own.Set == nil && s.backend.isAlive(s.name, own.waiterRecord, s.now) {
			return own
		}
	}
	return w
}

// claim makes an unclaimed lock the one of its owner's request.
func (s *repositoryStep) claim(f *finding, r *enhanced.EnhancedLockRequest) (acquisition, error) {
	before := *f.record
	owner, err := enhanced.ParseOwner(before.Owner)
	if err != nil {
		return acquisition{}, err
	}
	key := f.resource.Key()
	if err := s.delete(deadlineKey(before.Expires, key)); err != nil {
		return acquisition{}, err
	}
	m := s.memoryToChange()
	m.holdings.remove(owner, key)
	requests := m.requests
	delete(requests, before.Request)
	requests[r.ID] = before.Token
	record := f.record
	record.Pending, record.Expires = false, 0
	record.Owner, record.Request, record.Metadata = r.Owner().String(), r.ID, r.Metadata
	if r.Timeout != enhanced.NoTimeout {
		record.Expires = s.now + r.Timeout.Microseconds()
	}
	original := r.ProjectLock()
	if err := s.putPayload(f.resource, record, original); err != nil {
		return acquisition{}, err
	}
	err = errors.Join(
		s.putRecord(f.resource, record),
		s.log(enhanced.EventClaimed, f.resource, &before, record,
			change{actor: record.Owner, cause: enhanced.CauseRequest, request: r.ID}),
	)
	original = enhanced.SanitizeProjectLock(original)
	lock := newLock(s.tag, f.resource, record, &original)
	return acquisition{lock: lock, granted: true, claimed: []string{lock.ID}}, err
}

// expiryEvent is how a lease or a claim ends that runs out.
func (r *lockRecord) expiryEvent() string {
	if r.Pending {
		return enhanced.EventClaimExpired
	}
	return enhanced.EventTimeout
}

func isExpiry(event string) bool {
	return event == enhanced.EventTimeout || event == enhanced.EventClaimExpired
}

// countDetached remembers what the file's detached waiters wait for, see
// [waiting.sharing].
func (b *BoltBackend) countDetached() error {
	return b.db.View(func(tx *bbolt.Tx) error {
		eachRepository(tx, 0, func(r *repository) {
			r.allWaiters(func(w *waiter) {
				if w.Detached {
					b.turns.countDetached(w.resource, 1)
				}
			})
		})
		return nil
	})
}

// hasLate reports whether a detached waiter of the repository has waited for
// long enough.
func (r *repository) hasLate(config *enhanced.EnhancedConfig) (late bool) {
	if config.DetachedQueueTimeout <= 0 {
		return false
	}
	r.allWaiters(func(w *waiter) { late = late || w.isLate(config, r.now) })
	return late
}

// dequeueLate takes out up to limit detached waiters that have waited for long
// enough.
func (s *repositoryStep) dequeueLate(limit int) error {
	config := s.backend.config.Load()
	if config.DetachedQueueTimeout <= 0 {
		return nil
	}
	var late []*waiter
	s.allWaiters(func(w *waiter) {
		if len(late) < limit && w.isLate(config, s.now) {
			late = append(late, w)
		}
	})
	var errs []error
	for _, w := range late {
		errs = append(errs, s.dequeueDead(w))
	}
	return errors.Join(errs...)
}

// claimTime is how long a grant waits to be claimed, in microseconds.
func (s *repositoryStep) claimTime() int64 {
	return max(s.backend.config.Load().QueueClaimTimeout, time.Millisecond).Microseconds()
}
