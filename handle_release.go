package enhanced

import (
	"context"
	"errors"
	"fmt"
)

// Release ends the renewals and then releases the lock; none is sent after it has
// returned. The context bounds it: give one that has not ended, or the lock stays
// held until its lease ends.
//
// It answers nil when the store held the lock for this handle until now, even
// where the handle was lost by its own clocks before; an error that matches
// [ErrLockLost] when the lock was gone; and any other error when it is not known to be
// released: then it may be called again. Once it has answered nil or ErrLockLost,
// it always answers the same.
func (h *Handle) Release(ctx context.Context) error {
	h.mu.Lock()
	h.end(&LockError{
		Code:     ErrCodeLockNotFound,
		Message:  fmt.Sprintf("%s has released its lock %s on %s", DescribeOwner(h.lock.Owner), h.lock.ID, h.lock.Resource),
		Resource: h.lock.Resource,
	})
	over, gone := h.over, h.gone
	h.mu.Unlock()

	if err := ctx.Err(); err != nil {
		return contextError(err) // select would take either of two that are ready
	}
	select {
	case <-h.stopped:
	case <-ctx.Done():
		return contextError(ctx.Err())
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return contextError(ctx.Err())
	}
	switch {
	case h.released:
		return h.answer
	case gone:
		h.released, h.answer = true, over
		return over
	}
	lock, err := h.leaser.Release(ctx, h.releaseRequest())
	if err == nil && lock.releasedBefore() {
		err = NewUnknownLockError(h.lock.ID) // by somebody else, unless an answer was missed
	}
	switch {
	case err == nil, isGone(err) && h.unsure:
		h.released = true
		return nil
	case isGone(err):
		h.released = true
		h.answer = h.lost(err)
		return h.answer
	default:
		h.unsure = true
		return err
	}
}

func (h *Handle) releaseRequest() ReleaseRequest {
	return ReleaseRequest{LockID: h.lock.ID, Owner: h.lock.Owner}
}

// Do calls work and then releases the lock, also when work panics or ends its
// goroutine; the panic goes on. The context of work ends with ctx, and when the
// lock is lost: then its cause matches [ErrLockLost]. Do waits for work, whatever
// its context says.
//
// The error is that of work, with that of the loss if the lock was lost, and with
// that of the release if that failed: it has 5 seconds, whether ctx has ended or not.
func (h *Handle) Do(ctx context.Context, work func(ctx context.Context) error) (err error) {
	working, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(context.Cause(h.ctx)) })
	defer func() {
		stop()
		cancel(nil)
		err = errors.Join(err, h.finish(ctx))
	}()
	if err := h.Check(); err != nil {
		return nil // finish says it
	}
	return work(working)
}

// finish releases the lock after the work, and returns what went wrong with it.
func (h *Handle) finish(ctx context.Context) error {
	lost := h.Check()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	err := h.Release(ctx)
	if lost == nil || errors.Is(err, ErrLockLost) {
		return err
	}
	return errors.Join(lost, err)
}
