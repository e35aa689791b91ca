package enhanced

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
)

// newRetry returns what repeats operations, nil if nothing does.
func newRetry(config *EnhancedConfig) *timeout.RetryManager {
	if !config.EnableRetry {
		return nil
	}
	retry, err := timeout.NewRetryManager(timeout.RetryOptions{
		MaxAttempts: config.MaxRetryAttempts, BaseDelay: config.RetryBaseDelay, MaxDelay: config.RetryMaxDelay,
	})
	if err != nil {
		return nil // the configuration is invalid, and every call says so
	}
	return retry
}

// mayPass reports whether the store has failed in a way that may be over soon.
// It is for operations that are safe to do twice, since the outcome may be
// unknown. A store that is known to be down is not asked again: that would undo
// the quick answer.
func mayPass(err error) bool {
	return errors.Is(err, ErrBackend) && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrCorruptRecord) && !errors.Is(err, timeout.ErrOpen)
}

// mayPassUndone is mayPass for operations that must not be done twice.
func mayPassUndone(err error) bool {
	return mayPass(err) && !errors.Is(err, ErrOutcomeUnknown)
}

// mayPassOrBeFreed is mayPass for a request that is to be repeated while somebody
// else holds the lock. What the owner itself holds it will not release meanwhile.
func mayPassOrBeFreed(request *EnhancedLockRequest) func(error) bool {
	owner := request.Owner().String()
	return func(err error) bool {
		var held *LockError
		if errors.As(err, &held) && held.Code == ErrCodeLockExists && held.Holder != nil {
			return held.Holder.Owner != owner
		}
		return mayPass(err)
	}
}

// repeater calls operations of the backend, again if its configuration says so,
// for the manager and, for readings that the manager does not offer, the adapter.
type repeater struct {
	state   *atomic.Pointer[configState]
	retries atomic.Int64 // attempts after the first
}

func (r *repeater) do(ctx context.Context, retryable func(error) bool, operation func(context.Context) error) error {
	retry := r.state.Load().retry
	if retry == nil {
		return operation(ctx)
	}
	attempts, err := retry.Do(ctx, retryable, operation)
	if attempts == 1 {
		return err
	}
	r.retries.Add(int64(attempts - 1))
	var last *LockError
	if !errors.As(err, &last) {
		return err
	}
	told := *last
	told.Message = fmt.Sprintf("after %d attempts: %s", attempts, last.Message)
	if ended := ctx.Err(); ended != nil && !errors.Is(last, ended) {
		told.Err = errors.Join(last.Err, ended)
	}
	return &told
}

// repeated is repeater.do for an operation that answers something.
func repeated[T any](ctx context.Context, r *repeater, retryable func(error) bool, operation func(context.Context) (T, error)) (answer T, err error) {
	if r.state.Load().retry == nil {
		return operation(ctx)
	}
	err = r.do(ctx, retryable, func(ctx context.Context) (err error) {
		answer, err = operation(ctx)
		return err
	})
	return answer, err
}

// lookupLock, locksByLegacyKey and listLocks are readings of the backend, repeated.

func (r *repeater) lookupLock(ctx context.Context, backend Backend, resource ResourceIdentifier) (*EnhancedLock, error) {
	return repeated(ctx, r, mayPass, func(ctx context.Context) (*EnhancedLock, error) { return backend.LookupLock(ctx, resource) })
}

func (r *repeater) locksByLegacyKey(ctx context.Context, backend Backend, key string) ([]*EnhancedLock, error) {
	return repeated(ctx, r, mayPass, func(ctx context.Context) ([]*EnhancedLock, error) { return backend.LocksByLegacyKey(ctx, key) })
}

// listLocks leaves out what managers lock for themselves: Atlantis would take it
// for a project.
func (r *repeater) listLocks(ctx context.Context, backend Backend) ([]*EnhancedLock, error) {
	locks, err := repeated(ctx, r, mayPass, backend.ListLocks)
	return slices.DeleteFunc(locks, func(l *EnhancedLock) bool { return l.Resource == detectorResource() }), err
}

// askedAnew is what repeats a call that can wait, or that is for a set. Where it waits, the
// store gives back what an attempt has got whose outcome is unknown, since nobody is there
// for it. So a later attempt with the same IDs can be told that this has ended; it then
// asks with new ones. renew makes them; it is nil where they are the caller's, who is told
// instead.
func askedAnew[T any](renew func(context.Context) error, ask func(context.Context) (T, error)) func(context.Context) (T, error) {
	unknown := false
	return func(ctx context.Context) (T, error) {
		answer, err := ask(ctx)
		if unknown && renew != nil && errors.Is(err, ErrRequestEnded) {
			if err := renew(ctx); err != nil {
				return answer, err
			}
			answer, err = ask(ctx)
		}
		unknown = unknown || errors.Is(err, ErrOutcomeUnknown)
		return answer, err
	}
}
