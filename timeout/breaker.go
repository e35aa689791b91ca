package timeout

import (
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"
)

// ErrOpen says that a [CircuitBreaker] did not ask the service, which keeps
// failing. Nothing was done.
var ErrOpen = errors.New("not asked: it kept failing, and is tried again soon")

// BreakerState is the state of a [CircuitBreaker].
type BreakerState string

// The states of a circuit breaker.
const (
	// BreakerClosed: all calls go through.
	BreakerClosed BreakerState = "closed"
	// BreakerOpen: calls are answered at once with [ErrOpen].
	BreakerOpen BreakerState = "open"
	// BreakerHalfOpen: one call goes through, to see how the service is.
	BreakerHalfOpen BreakerState = "half-open"
)

// Verdict is what a call says about the service.
type Verdict int

// The verdicts.
const (
	// VerdictAlive: the service has answered, even if it refused.
	VerdictAlive Verdict = iota
	// VerdictFailed: the service has failed.
	VerdictFailed
	// VerdictNone: the call says nothing about it, as when its caller gave up.
	VerdictNone
)

// BreakerOptions configure a [CircuitBreaker]. The zero value works.
type BreakerOptions struct {
	// FailureThreshold is how many failures in a row, with no call between them
	// that was answered, open the circuit. Default 5.
	FailureThreshold int
	// OpenTimeout is how long it stays open before a call goes through to see how
	// the service is. If that one fails it opens again. Default 2s.
	OpenTimeout time.Duration
	// Judge says what an error means; it is not asked about nil, which is
	// VerdictAlive. Default: each error is a failure.
	Judge func(error) Verdict
}

// CircuitBreaker keeps callers from waiting for a service that is down, and such
// a service from being flooded: after some failures in a row it answers at once,
// and asks again a little later, with one call. It is the circuit breaker of
// Michael T. Nygard, Release It!, as described in
// https://martinfowler.com/bliki/CircuitBreaker.html. Make it with
// [NewCircuitBreaker]; all methods are safe for concurrent use.
type CircuitBreaker struct {
	breaker *gobreaker.CircuitBreaker[struct{}]
}

// NewCircuitBreaker returns a closed one. It answers [ErrInvalid] for negative
// options.
func NewCircuitBreaker(options BreakerOptions) (*CircuitBreaker, error) {
	if options.FailureThreshold < 0 {
		return nil, fmt.Errorf("%w: FailureThreshold %d is negative", ErrInvalid, options.FailureThreshold)
	}
	if options.OpenTimeout < 0 {
		return nil, fmt.Errorf("%w: OpenTimeout %v is negative", ErrInvalid, options.OpenTimeout)
	}
	if options.FailureThreshold == 0 {
		options.FailureThreshold = 5
	}
	if options.OpenTimeout == 0 {
		options.OpenTimeout = 2 * time.Second
	}
	judge := options.Judge
	if judge == nil {
		judge = func(error) Verdict { return VerdictFailed }
	}
	threshold := options.FailureThreshold
	return &CircuitBreaker{gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  1,
		Timeout:      options.OpenTimeout,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= threshold },
		IsSuccessful: func(err error) bool { return err == nil || judge(err) == VerdictAlive },
		IsExcluded:   func(err error) bool { return err != nil && judge(err) == VerdictNone },
	})}, nil
}

// Do calls fn and returns its error, or [ErrOpen] without calling it. A panic of
// fn counts as a failure and goes on. fn must not end its goroutine.
func (b *CircuitBreaker) Do(fn func() error) error {
	_, err := b.breaker.Execute(func() (struct{}, error) { return struct{}{}, fn() })
	if err == gobreaker.ErrOpenState || err == gobreaker.ErrTooManyRequests { //nolint:errorlint // fn may wrap those of another one
		return ErrOpen
	}
	return err
}

// State returns the state now.
func (b *CircuitBreaker) State() BreakerState {
	switch b.breaker.State() {
	case gobreaker.StateOpen:
		return BreakerOpen
	case gobreaker.StateHalfOpen:
		return BreakerHalfOpen
	default:
		return BreakerClosed
	}
}
