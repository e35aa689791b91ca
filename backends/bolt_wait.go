package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

const (
	// watchInterval is how often a resource that calls wait for is settled, in
	// case nothing else does.
	watchInterval = 2 * time.Second
	// leaveTime bounds the steps that take a waiter out whose call has ended.
	leaveTime = 5 * time.Second
	// leavePause is how long after a failure that is tried again.
	leavePause = time.Second
	// farewell is how long a call whose context has ended stays to learn that
	// it got nothing.
	farewell = 50 * time.Millisecond
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
	start := time.Now()
	lock, err := b.acquireInTurn(ctx, config, r)
	switch {
	case err == nil:
		b.recorder.Acquired(time.Since(start))
	case errors.Is(err, enhanced.ErrBackend), errors.Is(err, enhanced.ErrOutcomeUnknown):
		b.recorder.Failed()
	default: // who has waited in vain was refused
		b.recorder.Refused()
	}
	return lock, err
}

// acquireInTurn enters the call before the store has its waiter, so that no
// grant can miss it.
func (b *BoltBackend) acquireInTurn(ctx context.Context, config *enhanced.EnhancedConfig, r *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	operation := "acquire " + r.Resource.String()
	call, err := b.waiting.join(ctx, r)
	switch {
	case errors.Is(err, enhanced.ErrClosed):
		return nil, enhanced.NewBackendError(operation, err)
	case err != nil:
		return nil, contextError(operation, err)
	}
	a, err := decide(ctx, b.committer, operation, func(batch *batch) (acquisition, error) {
		a, err := b.repositoryStep(batch, r.Resource.Namespace).acquire(r, true)
		if err == nil && a.granted && !a.known {
			// The caller may have gone by then.
			batch.after = append(batch.after, func() { b.waiting.answer(nameOf(r), a.lock, nil) })
		}
		return a, err
	})
	switch {
	case errors.Is(err, enhanced.ErrOutcomeUnknown):
		// It may wait, or have the lock, and nobody is there for either.
		_ = b.desert(ctx, r, call) // the error says it already
		return nil, err
	case err == nil && a.waits:
		return b.wait(ctx, config.QueueTimeout, r, call)
	}
	b.waiting.leave(r, call, err == nil && a.granted)
	if err == nil && !a.granted {
		err = enhanced.NewHeldError(a.lock.Resource, a.lock)
	}
	if err != nil {
		return nil, err
	}
	return a.lock, nil
}

// wait waits for the turn of a request that is in the queue.
func (b *BoltBackend) wait(ctx context.Context, limit time.Duration, r *enhanced.EnhancedLockRequest, call *waitingCall) (*enhanced.EnhancedLock, error) {
	b.waiting.queued(call)
	defer b.waiting.look(r.Resource)()
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case <-call.done:
		b.waiting.leave(r, call, call.err == nil)
		return call.result()
	case <-b.waiting.closed:
		left := b.desert(context.WithoutCancel(ctx), r, call)
		return nil, enhanced.NewBackendError("wait for "+r.Resource.String(), errors.Join(enhanced.ErrClosed, left))
	case <-ctx.Done():
		return nil, b.giveUp(ctx, r, call)
	case <-patience.C:
	}
	if b.waiting.leaveToOthers(call) {
		return nil, queueTimeoutError(r, place{})
	}
	at, err := b.leaveQueue(ctx, r, enhanced.EventQueueTimeout)
	switch {
	case ctx.Err() != nil:
		return nil, b.giveUp(ctx, r, call)
	case err != nil:
		return nil, errors.Join(err, b.desert(ctx, r, call))
	}
	select {
	case <-call.done: // by another step, or by this one
		b.waiting.leave(r, call, call.err == nil)
		return call.result()
	default: // a repair has taken it out
		b.waiting.leave(r, call, false)
		return nil, queueTimeoutError(r, at)
	}
}

// giveUp ends a call whose context has ended.
func (b *BoltBackend) giveUp(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) error {
	left := b.desert(ctx, r, call)
	return &enhanced.LockError{
		Code: enhanced.ErrCodeTimeout, Resource: r.Resource,
		Message: fmt.Sprintf("the call's context has ended while it waited for %s", r.Resource),
		Err:     errors.Join(left, ctx.Err()),
	}
}

// desert takes a call out whose caller goes away. When no other call waits for
// the request, its waiter leaves the queue, and a lock that it has got and nobody
// was told of is released. It returns soon: nil when that is done, outcome
// unknown while it may still be under way.
func (b *BoltBackend) desert(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) error {
	done := make(chan error, 1)
	last := b.waiting.desert(r, call, func() {
		err := b.cleanUp(ctx, r, call)
		done <- err
		for err != nil && b.waiting.pause(leavePause) {
			err = b.cleanUp(ctx, r, call)
		}
	})
	if !last {
		return nil
	}
	patience := time.NewTimer(farewell)
	defer patience.Stop()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
	case <-patience.C:
	}
	return enhanced.ErrOutcomeUnknown
}

func (b *BoltBackend) cleanUp(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	defer func() {
		if err != nil {
			b.logger.Err("taking %s out of the queue for %s: %v", r.Owner().Describe(), r.Resource, err)
		}
	}()
	if _, err := b.leaveQueue(ctx, r, enhanced.EventCancelled); err != nil {
		return err
	}
	// From here on the request can't be granted: it waits no more. What it was
	// granted before has been announced.
	lock := b.waiting.unclaimed(call)
	if lock == nil {
		return nil
	}
	_, err = b.changeLock(ctx, "release", lock.ID, func(s *repositoryStep, f *finding) error {
		return s.finish(f, change{actor: f.record.Owner, cause: enhanced.CauseRequest, reason: "its caller had gone when it got it"})
	})
	if isDecision(err) {
		return nil // it has ended already
	}
	return err
}

// place is where a waiter stood.
type place struct {
	number, of int
	holder     *enhanced.EnhancedLock
}

// leaveQueue takes a request's waiter out, if there is one, and says where it
// stood where time has run out.
func (b *BoltBackend) leaveQueue(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (place, error) {
	return decide(ctx, b.committer, "leave the queue for "+r.Resource.String(), func(batch *batch) (place, error) {
		s := b.repositoryStep(batch, r.Resource.Namespace)
		w := s.waiterOf(r.ID)
		if w == nil {
			return place{}, nil
		}
		var at place
		if event == enhanced.EventQueueTimeout {
			at = s.placeOf(w)
		}
		return at, s.dequeue(w, event, change{actor: w.Owner, cause: enhanced.CauseRequest}, queueTimeoutError(r, at))
	})
}

// queueTimeoutError is the answer to a request that has waited long enough.
func queueTimeoutError(r *enhanced.EnhancedLockRequest, at place) error {
	message := fmt.Sprintf("%s waited too long for %s", r.Owner().Describe(), r.Resource)
	if at.number > 0 {
		message += fmt.Sprintf(", as number %d of %d in the queue", at.number, at.of)
	}
	if at.holder != nil {
		message += "; " + enhanced.NewHeldError(r.Resource, at.holder).Message
	}
	return &enhanced.LockError{Code: enhanced.ErrCodeTimeout, Message: message, Resource: r.Resource, Holder: at.holder}
}

// answerTheUnanswered tells calls that wait for a resource what became of their
// requests, where nobody has: a transaction that failed can have reached the file
// all the same, and a repair can have taken a waiter out.
func (b *BoltBackend) answerTheUnanswered(ctx context.Context, resource enhanced.ResourceIdentifier) {
	names := b.waiting.unanswered(resource)
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
				b.waiting.answer(name, f.lock(), nil)
			default:
				b.waiting.answer(name, nil, &enhanced.LockError{
					Code: enhanced.ErrCodeLockExpired, Resource: resource,
					Message: fmt.Sprintf("the request for %s is not in the queue any more", resource),
				})
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
