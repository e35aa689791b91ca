// Package timeout has what keeps a caller of a slow or broken service going:
// callbacks at deadlines ([TimeoutManager]), repeated attempts ([RetryManager]),
// not asking a service that is down ([CircuitBreaker]), and time-outs that follow
// the observed latency ([AdaptiveTimeoutManager]).
//
// The parts are independent of each other and of what they are used for: the
// caller says which errors are worth another attempt and which mean that the
// service has failed. All of them are safe for concurrent use, measure with the
// monotonic clock, and run in a bubble of testing/synctest. Only a
// [TimeoutManager] has goroutines, until its Stop.
package timeout

import "errors"

// ErrInvalid marks an option out of bounds; the message names it, its value and
// the bounds.
var ErrInvalid = errors.New("invalid")
