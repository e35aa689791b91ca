package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/recorder"
	"github.com/runatlantis/atlantis/server/logging"
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

// queueStore is what a store does for calls that wait for their turn.
type queueStore interface {
	// ask takes the lock for a request or has it wait. When the request gets the
	// lock, other calls that wait for it are told.
	ask(ctx context.Context, r *enhanced.EnhancedLockRequest) (acquisition, error)
	// leave takes a request out of the queue.
	leave(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (departure, error)
	// giveBack releases a lock that nobody was told of.
	giveBack(ctx context.Context, lock *enhanced.EnhancedLock) error
}

// departure is how a request has left the queue.
type departure struct {
	place
	// lock is what it had got, nil for none. Where the store tells the calls of
	// each grant before it answers anything later, it is nil.
	lock *enhanced.EnhancedLock
	// ended is set when it had got the lock, which has ended since.
	ended bool
}

// place is where a waiter stood.
type place struct {
	number, of int
	holder     *enhanced.EnhancedLock
}

// turns has calls wait for their turn.
type turns struct {
	*waiting
	store    queueStore
	recorder *recorder.Recorder
	logger   logging.SimpleLogging
	// watchSet looks after what a set waits for until its context ends; nil where
	// single requests wait.
	watchSet func(ctx context.Context)
}

// acquire takes the lock, or waits up to limit for its turn.
func (t *turns) acquire(ctx context.Context, limit time.Duration, r *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	start := time.Now()
	a, err := t.inTurn(ctx, limit, r)
	t.countTurn(time.Since(start), err)
	return a.lock, err
}

// countTurn counts a request that has waited for its turn.
func (t *turns) countTurn(wait time.Duration, err error) {
	switch {
	case err == nil:
		t.recorder.Acquired(wait)
	case errors.Is(err, enhanced.ErrBackend), errors.Is(err, enhanced.ErrOutcomeUnknown):
		t.recorder.Failed()
	default: // who has waited in vain was refused
		t.recorder.Refused()
	}
}

// inTurn enters the call before the store has its waiter, so that no grant can
// miss it.
func (t *turns) inTurn(ctx context.Context, limit time.Duration, r *enhanced.EnhancedLockRequest) (acquisition, error) {
	operation := "acquire " + r.Resource.String()
	call, err := t.join(ctx, r)
	switch {
	case errors.Is(err, enhanced.ErrClosed):
		return acquisition{}, enhanced.NewBackendError(operation, err)
	case err != nil:
		return acquisition{}, contextError(operation, err)
	}
	a, err := t.store.ask(ctx, r)
	switch {
	case errors.Is(err, enhanced.ErrOutcomeUnknown):
		// It may wait, or have the lock, and nobody is there for either.
		_ = t.desert(ctx, r, call) // the error says it already
		return acquisition{}, err
	case err == nil && a.waits:
		if a, err = t.wait(ctx, limit, r, call); err == nil {
			enhanced.ReportGrant(ctx, enhanced.EventGranted)
		}
		return a, err
	}
	t.waiting.leave(r, call, err == nil && a.granted)
	a.report(ctx, err)
	if err == nil && !a.granted {
		err = enhanced.NewHeldError(a.lock.Resource, a.lock)
	}
	if err != nil {
		return acquisition{}, err
	}
	return a, nil
}

// wait waits for the turn of a request that is in the queue.
func (t *turns) wait(ctx context.Context, limit time.Duration, r *enhanced.EnhancedLockRequest, call *waitingCall) (acquisition, error) {
	defer t.lookAfter(r, call)()
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case <-call.done:
		t.waiting.leave(r, call, call.err == nil)
		return call.result()
	case <-t.closed:
		left := t.desert(context.WithoutCancel(ctx), r, call)
		return acquisition{}, enhanced.NewBackendError("wait for "+r.Resource.String(), errors.Join(enhanced.ErrClosed, left))
	case <-ctx.Done():
		return acquisition{}, t.giveUp(ctx, r, call)
	case <-patience.C:
	}
	if t.leaveToOthers(call) {
		return acquisition{}, queueTimeoutError(r, place{})
	}
	left, err := t.leaveQueue(ctx, r, enhanced.EventQueueTimeout)
	switch {
	case ctx.Err() != nil:
		return acquisition{}, t.giveUp(ctx, r, call)
	case err != nil:
		return acquisition{}, errors.Join(err, t.desert(ctx, r, call))
	case left.number > 0: // so it was this step that has taken it out
		t.waiting.leave(r, call, false)
		return acquisition{}, queueTimeoutError(r, left.place)
	}
	select {
	case <-call.done: // by another step
		t.waiting.leave(r, call, call.err == nil)
		return call.result()
	default: // a repair has taken it out, or nobody has told yet
		t.waiting.leave(r, call, false)
		if left.ended {
			return acquisition{}, endedRequestError(r)
		}
		return acquisition{}, queueTimeoutError(r, left.place)
	}
}

// lookAfter has what a call waits for watched until stop is called.
func (t *turns) lookAfter(r *enhanced.EnhancedLockRequest, call *waitingCall) (stop func()) {
	if t.watchSet == nil {
		t.queued(call)
		return t.look(r.Resource)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.work.Go(func() { t.watchSet(ctx) })
	return cancel
}

// giveUp ends a call whose context has ended.
func (t *turns) giveUp(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) error {
	left := t.desert(ctx, r, call)
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
func (t *turns) desert(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) error {
	done := make(chan error, 1)
	last := t.waiting.desert(r, call, func() {
		err := t.cleanUp(ctx, r, call)
		done <- err
		for err != nil && t.pause(leavePause) {
			err = t.cleanUp(ctx, r, call)
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

func (t *turns) cleanUp(ctx context.Context, r *enhanced.EnhancedLockRequest, call *waitingCall) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	defer func() {
		if err != nil {
			t.logger.Err("taking %s out of the queue for %s: %v", r.Owner().Describe(), r.Resource, err)
		}
	}()
	if _, err := t.leaveQueue(ctx, r, enhanced.EventCancelled); err != nil {
		return err
	}
	// From here on the request can't be granted: it waits no more.
	lock := t.unclaimed(call)
	if lock == nil {
		return nil
	}
	err = t.store.giveBack(ctx, lock)
	if isDecision(err) {
		return nil // it has ended already
	}
	return err
}

// leaveQueue takes a request out, and tells its calls of a lock that it has got.
func (t *turns) leaveQueue(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (departure, error) {
	left, err := t.store.leave(ctx, r, event)
	if err == nil && left.lock != nil {
		t.answer(nameOf(r), left.lock, nil)
	}
	return left, err
}

// deserted is the reason of a lock's release that was granted to a call that had
// gone.
const deserted = "its caller had gone when it got it"

// queueTimeoutError is the answer to a request that has waited long enough.
func queueTimeoutError(r *enhanced.EnhancedLockRequest, at place) error {
	message := fmt.Sprintf("%s waited too long for %s", r.Owner().Describe(), r.Resource)
	if at.number > 0 {
		message += fmt.Sprintf(", as number %d of %d in the queue", at.number, at.of)
	}
	if at.holder != nil {
		message += "; " + enhanced.NewHeldError(at.holder.Resource, at.holder).Message
	}
	return &enhanced.LockError{Code: enhanced.ErrCodeTimeout, Message: message, Resource: r.Resource, Holder: at.holder}
}

// notWaitingError is the answer to a request that is no longer in the queue, for
// a reason that nobody has told.
func notWaitingError(resource enhanced.ResourceIdentifier) error {
	return &enhanced.LockError{
		Code: enhanced.ErrCodeLockExpired, Resource: resource,
		Message: fmt.Sprintf("the request for %s is not in the queue any more", resource),
	}
}

func queueFullError(r *enhanced.EnhancedLockRequest, holder *enhanced.EnhancedLock, length, limit int) error {
	return &enhanced.LockError{
		Code: enhanced.ErrCodeQueueFull, Resource: r.Resource, Holder: holder,
		Message: fmt.Sprintf("%s; its queue has %d waiters, and max_queue_size is %d", enhanced.NewHeldError(r.Resource, holder).Message, length, limit),
	}
}

// cancelledError is the answer to a request that was taken out of the queue.
func cancelledError(resource enhanced.ResourceIdentifier, owner, actor string) error {
	return &enhanced.LockError{
		Code: enhanced.ErrCodeLockExpired, Resource: resource,
		Message: fmt.Sprintf("the request of %s for %s was cancelled by %s", enhanced.DescribeOwner(owner), resource, enhanced.DescribeOwner(actor)),
	}
}
