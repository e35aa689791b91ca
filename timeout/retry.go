package timeout

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// RetryOptions configure a [RetryManager]. The zero value works.
type RetryOptions struct {
	// MaxAttempts counts all attempts, the first one included. Default 3.
	MaxAttempts int
	// BaseDelay bounds the pause after the first attempt; the bound doubles with
	// each further one, up to MaxDelay. Defaults 1s and 30s.
	BaseDelay time.Duration
	MaxDelay  time.Duration
}

// RetryManager repeats what failed, with growing pauses: the nth pause is random
// between zero and min(MaxDelay, BaseDelay * 2^(n-1)), evenly. Callers that
// failed together so come back apart. This is "full jitter", which needed the
// fewest calls in
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
// Make it with [NewRetryManager]; it has no state and is safe for concurrent use.
type RetryManager struct{ options RetryOptions }

// NewRetryManager answers [ErrInvalid] for negative options, and for a BaseDelay
// above MaxDelay.
func NewRetryManager(options RetryOptions) (*RetryManager, error) {
	switch {
	case options.MaxAttempts < 0:
		return nil, fmt.Errorf("%w: MaxAttempts %d is negative", ErrInvalid, options.MaxAttempts)
	case options.BaseDelay < 0:
		return nil, fmt.Errorf("%w: BaseDelay %v is negative", ErrInvalid, options.BaseDelay)
	case options.MaxDelay < 0:
		return nil, fmt.Errorf("%w: MaxDelay %v is negative", ErrInvalid, options.MaxDelay)
	}
	if options.MaxAttempts == 0 {
		options.MaxAttempts = 3
	}
	if options.BaseDelay == 0 {
		options.BaseDelay = time.Second
	}
	if options.MaxDelay == 0 {
		options.MaxDelay = 30 * time.Second
	}
	if options.BaseDelay > options.MaxDelay {
		return nil, fmt.Errorf("%w: BaseDelay %v is above MaxDelay %v", ErrInvalid, options.BaseDelay, options.MaxDelay)
	}
	return &RetryManager{options}, nil
}

// Do calls attempt until it succeeds, fails with an error that retryable does
// not accept, has been called MaxAttempts times, or ctx ends. The first attempt
// is made whatever ctx says. It returns how often attempt was called, and the
// last error; when ctx has ended a pause, the error is the context's, too.
//
// What attempt changes must be safe to repeat after an error that retryable
// accepts: the reply may have been lost, not the request.
func (r *RetryManager) Do(ctx context.Context, retryable func(error) bool, attempt func(context.Context) error) (int, error) {
	err := attempt(ctx)
	if err == nil || r.options.MaxAttempts == 1 || !retryable(err) {
		return 1, err
	}
	pauses := r.pauses()
	for attempts := 1; ; {
		if ended := pause(ctx, pauses.NextBackOff()); ended != nil {
			return attempts, &interruptedError{last: err, ended: ended}
		}
		attempts++
		if err = attempt(ctx); err == nil || attempts == r.options.MaxAttempts || !retryable(err) {
			return attempts, err
		}
	}
}

// pauses gives the delays. The library varies an interval by a share of itself:
// with all of it, half of the bound gives what is between zero and the bound.
func (r *RetryManager) pauses() *backoff.ExponentialBackOff {
	pauses := &backoff.ExponentialBackOff{
		InitialInterval:     r.options.BaseDelay / 2,
		MaxInterval:         r.options.MaxDelay / 2,
		Multiplier:          2,
		RandomizationFactor: 1,
	}
	pauses.Reset()
	return pauses
}

// pause waits, or answers the error of a context that ends before.
func pause(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// interruptedError is the last error of attempts that ended with their context.
type interruptedError struct{ last, ended error }

func (e *interruptedError) Error() string {
	return e.last.Error() + "; not tried again: " + e.ended.Error()
}

func (e *interruptedError) Unwrap() []error { return []error{e.last, e.ended} }
