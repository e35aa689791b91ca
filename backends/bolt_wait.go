package backends

import (
	"context"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// AcquireLock takes the lock, or waits for its turn when the queue is enabled.
// See [enhanced.Backend].
func (b *BoltBackend) AcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	config := b.config.Load()
	if !config.EnablePriorityQueue {
		lock, acquired, err := b.TryAcquireLock(ctx, request)
		if err == nil && !acquired {
			return nil, enhanced.NewHeldError(lock.Resource, lock)
		}
		return lock, err
	}
	r, err := enhanced.NormalizeRequest(request, config.DefaultTimeout, config.MaxTimeout)
	if err != nil {
		return nil, err
	}
	return b.turns.acquire(ctx, config.QueueTimeout, r)
}

// boltQueue is the file as turns need it.
type boltQueue struct{ *BoltBackend }

func (b boltQueue) ask(ctx context.Context, r *enhanced.EnhancedLockRequest) (acquisition, error) {
	return decide(ctx, b.committer, "acquire "+r.Resource.String(), func(batch *batch) (acquisition, error) {
		a, err := b.repositoryStep(batch, r.Resource.Namespace).acquire(r, true)
		if err == nil && a.granted && !a.known {
			// The caller may have gone by then.
			batch.after = append(batch.after, func() { b.turns.answer(nameOf(r), a.lock, nil) })
		}
		return a, err
	})
}

// leave says where the waiter stood where time has run out.
func (b boltQueue) leave(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (departure, error) {
	return decide(ctx, b.committer, "leave the queue for "+r.Resource.String(), func(batch *batch) (departure, error) {
		s := b.repositoryStep(batch, r.Resource.Namespace)
		w := s.waiterOf(r.ID)
		if w == nil {
			return departure{}, nil
		}
		var left departure
		if event == enhanced.EventQueueTimeout {
			left.place = s.placeOf(w)
		}
		return left, s.dequeue(w, event, change{actor: w.Owner, cause: enhanced.CauseRequest}, queueTimeoutError(r, left.place))
	})
}

func (b boltQueue) giveBack(ctx context.Context, lock *enhanced.EnhancedLock) error {
	_, err := b.changeLock(ctx, "release", lock.ID, func(s *repositoryStep, f *finding) error {
		return s.finish(f, change{actor: f.record.Owner, cause: enhanced.CauseRequest, reason: deserted})
	})
	return err
}

// answerTheUnanswered tells calls that wait for a resource what became of their
// requests, where nobody has: a transaction that failed can have reached the file
// all the same, and a repair can have taken a waiter out.
func (b *BoltBackend) answerTheUnanswered(ctx context.Context, resource enhanced.ResourceIdentifier) {
	b.committer.telling.RLock()
	defer b.committer.telling.RUnlock()
	names := b.turns.unanswered(resource)
	_ = b.viewNow(ctx, "look after those who wait for "+resource.String(), func(tx *bbolt.Tx, now int64) error {
		r := b.repository(tx, resource.Namespace, now)
		names = slices.DeleteFunc(names, func(name requestName) bool { return r.waiterOf(name.id) != nil })
		if len(names) == 0 {
			return nil
		}
		// What leads to a waiter can be missing while the waiter is there.
		queued := make(map[string]bool)
		r.eachWaiter(resource, func(w *waiter) bool {
			queued[w.Request] = true
			return true
		})
		f := r.inspect(resource)
		for _, name := range names {
			switch {
			case queued[name.id]:
			case f.status == held && f.record.Request == name.id:
				b.turns.answer(name, f.lock(), nil)
			default:
				b.turns.answer(name, nil, notWaitingError(resource))
			}
		}
		return nil
	}) // it is done again
}

// watch settles a resource that calls wait for when the lease on it ends, and
// now and then, in case a repair has freed it.
func (b *BoltBackend) watch(ctx context.Context, resource enhanced.ResourceIdentifier) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next, err := decide(ctx, b.committer, "look at "+resource.String(), func(batch *batch) (time.Duration, error) {
			f, _, err := b.repositoryStep(batch, resource.Namespace).settle(resource)
			if err != nil || f.record == nil || f.record.Expires == 0 {
				return watchInterval, err
			}
			return time.Duration(f.record.Expires-batch.now) * time.Microsecond, nil
		})
		if err != nil && ctx.Err() == nil {
			b.logger.Err("looking after those who wait for %s: %v", resource, err)
		}
		if err != nil {
			next = watchInterval
		} else {
			b.answerTheUnanswered(ctx, resource)
		}
		timer.Reset(min(max(next, time.Millisecond), watchInterval))
	}
}
