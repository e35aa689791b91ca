package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

const (
	// watchInterval is how often a resource that calls wait for is settled, in
	// case nothing else does.
	watchInterval = 2 * time.Second
	// leaveTime bounds the step that takes a waiter out whose call has ended.
	leaveTime = 5 * time.Second
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
	countRequest(&b.recorder, err == nil, time.Since(start), err)
	return lock, err
}

// acquireInTurn enters the call before the store has its waiter, so that no
// grant can miss it.
func (b *BoltBackend) acquireInTurn(ctx context.Context, config *enhanced.EnhancedConfig, r *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	call := b.waiting.join(r)
	if call == nil {
		return nil, enhanced.NewBackendError("acquire "+r.Resource.String(), enhanced.ErrClosed)
	}
	a, err := decide(ctx, b.committer, "acquire "+r.Resource.String(), func(batch *batch) (acquisition, error) {
		return b.repositoryStep(batch, r.Resource.Namespace).acquire(r, true)
	})
	switch {
	case errors.Is(err, enhanced.ErrOutcomeUnknown):
		// It may wait, or have the lock, and nobody is there for either.
		_ = b.leave(ctx, r, call) // the error says it already
		return nil, err
	case err != nil || a.granted || !a.waits:
		b.waiting.leave(r, call)
		if err == nil && !a.granted {
			err = enhanced.NewHeldError(a.lock.Resource, a.lock)
		}
		if err != nil {
			return nil, err
		}
		return a.lock, nil
	}
	return b.wait(ctx, config.QueueTimeout, r, call)
}

// wait waits for the turn of a request that is in the queue.
func (b *BoltBackend) wait(ctx context.Context, limit time.Duration, r *enhanced.EnhancedLockRequest, call *waitingCall) (*enhanced.EnhancedLock, error) {
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case <-call.done:
		b.waiting.leave(r, call)
		return call.result()
	case <-b.waiting.closed:
		b.waiting.leave(r, call)
		return nil, enhanced.NewBackendError("wait for "+r.Resource.String(), enhanced.ErrClosed)
	case <-ctx.Done():
		left := b.leave(ctx, r, call)
		return nil, &enhanced.LockError{
			Code: enhanced.ErrCodeTimeout, Resource: r.Resource,
			Message: fmt.Sprintf("the call's context has ended while it waited for %s", r.Resource),
			Err:     errors.Join(left, ctx.Err()),
		}
	case <-patience.C:
	}
	at, lock, err := b.leaveQueue(ctx, r, enhanced.EventQueueTimeout, false)
	if err != nil {
		return nil, errors.Join(err, b.leave(ctx, r, call))
	}
	b.waiting.leave(r, call)
	if lock != nil {
		return lock, nil
	}
	if at.number == 0 { // somebody else has taken it out meanwhile
		<-call.done
		return call.result()
	}
	return nil, queueTimeoutError(r, at)
}

// leave takes a call out whose caller has gone, together with its waiter and the
// lock that it may have got meanwhile. It returns soon: nil when that is done,
// outcome unknown while it may still be under way.
func (b *BoltBackend) leave(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) error {
	if !b.waiting.leave(r, call) {
		return nil
	}
	done := make(chan error, 1)
	b.waiting.behind(func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
		defer cancel()
		_, _, err := b.leaveQueue(leaving, r, enhanced.EventCancelled, true)
		if err != nil {
			b.logger.Err("taking %s out of the queue for %s: %v", r.Owner().Describe(), r.Resource, err)
		}
		done <- err
	})
	patience := time.NewTimer(farewell)
	defer patience.Stop()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
	case <-b.waiting.closed:
	case <-patience.C:
	}
	return enhanced.ErrOutcomeUnknown
}

// place is where a waiter stood.
type place struct {
	number, of int
	holder     *enhanced.EnhancedLock
}

// leaveQueue takes a request's waiter out and says where it stood. Where it had
// its turn already, that lock is released or returned.
func (b *BoltBackend) leaveQueue(ctx context.Context, r *enhanced.EnhancedLockRequest, event string, release bool) (place, *enhanced.EnhancedLock, error) {
	type result struct {
		at   place
		lock *enhanced.EnhancedLock
	}
	owner := r.Owner().String()
	left, err := decide(ctx, b.committer, "leave the queue for "+r.Resource.String(), func(batch *batch) (result, error) {
		s := b.repositoryStep(batch, r.Resource.Namespace)
		if w := s.waiterOf(r.ID); w != nil {
			at := s.placeOf(w)
			return result{at: at}, s.dequeue(w, event, change{actor: owner, cause: enhanced.CauseRequest}, queueTimeoutError(r, at))
		}
		known, answer, err := s.recall(r)
		switch {
		case isDecision(err):
			return result{}, nil
		case err != nil || !known || !release:
			return result{lock: answer.lock}, err
		}
		f := s.inspect(r.Resource)
		return result{}, s.finish(&f, change{actor: owner, cause: enhanced.CauseRequest, reason: "its caller had gone when it got it"})
	})
	return left.at, left.lock, err
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

// watch settles a resource that calls wait for when the lease on it ends, and
// now and then: what frees it without a step of its own is a repair, or the end
// of a lock on another resource that stock Atlantis takes for the same.
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
		}
		timer.Reset(min(max(next, time.Millisecond), watchInterval))
	}
}
