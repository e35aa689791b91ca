package timeout_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errHeld = errors.New("held")

func judge(err error) timeout.Verdict {
	switch {
	case errors.Is(err, errHeld):
		return timeout.VerdictAlive
	case errors.Is(err, context.Canceled):
		return timeout.VerdictNone
	}
	return timeout.VerdictFailed
}

func newBreaker(t *testing.T, options timeout.BreakerOptions) *timeout.CircuitBreaker {
	t.Helper()
	b, err := timeout.NewCircuitBreaker(options)
	require.NoError(t, err)
	return b
}

// service answers what it is told to, and counts its calls.
type service struct {
	answer error
	calls  atomic.Int64
}

func (s *service) call() error {
	s.calls.Add(1)
	return s.answer
}

func TestCircuitBreakerOpensProbesAndCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, timeout.BreakerOptions{FailureThreshold: 3, OpenTimeout: time.Minute, Judge: judge})
		s := &service{answer: errPassing}
		for range 3 {
			require.Equal(t, timeout.BreakerClosed, b.State())
			require.Equal(t, errPassing, b.Do(s.call))
		}
		require.Equal(t, timeout.BreakerOpen, b.State())
		start := time.Now()
		for range 1000 {
			require.Equal(t, timeout.ErrOpen, b.Do(s.call))
		}
		require.Zero(t, time.Since(start), "answered at once")
		require.EqualValues(t, 3, s.calls.Load())

		// One probe a minute while it fails.
		for i := range 60 {
			<-time.After(time.Minute + 1)
			require.Equal(t, timeout.BreakerHalfOpen, b.State())
			require.Equal(t, errPassing, b.Do(s.call))
			require.Equal(t, timeout.ErrOpen, b.Do(s.call))
			require.EqualValues(t, 4+i, s.calls.Load())
		}
		s.answer = nil
		<-time.After(time.Minute + 1)
		require.NoError(t, b.Do(s.call))
		require.Equal(t, timeout.BreakerClosed, b.State())
		// It starts to count anew.
		s.answer = errPassing
		require.Equal(t, errPassing, b.Do(s.call))
		require.Equal(t, errPassing, b.Do(s.call))
		require.Equal(t, timeout.BreakerClosed, b.State())
	})
}

func TestCircuitBreakerLetsOneProbeThrough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, timeout.BreakerOptions{FailureThreshold: 1, OpenTimeout: time.Minute})
		require.Error(t, b.Do((&service{answer: errPassing}).call))
		<-time.After(2 * time.Minute)
		release, probes := make(chan struct{}), atomic.Int64{}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				err := b.Do(func() error { probes.Add(1); <-release; return nil })
				if err != nil {
					assert.Equal(t, timeout.ErrOpen, err)
				}
			})
		}
		synctest.Wait()
		require.EqualValues(t, 1, probes.Load())
		close(release)
		all.Wait()
		require.Equal(t, timeout.BreakerClosed, b.State())
	})
}

func TestCircuitBreakerIgnoresWhatIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, timeout.BreakerOptions{FailureThreshold: 3, OpenTimeout: time.Minute, Judge: judge})
		for range 1000 {
			require.Equal(t, errHeld, b.Do((&service{answer: errHeld}).call))
			require.ErrorIs(t, b.Do((&service{answer: context.Canceled}).call), context.Canceled)
		}
		require.Equal(t, timeout.BreakerClosed, b.State())

		// A refusal is an answer: it ends a row of failures. A caller that gave up
		// ends none.
		for _, answer := range []error{errPassing, errPassing, errHeld, errPassing, context.Canceled, errPassing} {
			require.Equal(t, answer, b.Do((&service{answer: answer}).call))
			require.Equal(t, timeout.BreakerClosed, b.State())
		}
		require.Equal(t, errPassing, b.Do((&service{answer: errPassing}).call))
		require.Equal(t, timeout.BreakerOpen, b.State())
	})
}

func TestACancelledProbeLeavesRoomForTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, timeout.BreakerOptions{FailureThreshold: 1, OpenTimeout: time.Minute, Judge: judge})
		require.Error(t, b.Do((&service{answer: errPassing}).call))
		<-time.After(2 * time.Minute)
		require.ErrorIs(t, b.Do((&service{answer: context.Canceled}).call), context.Canceled)
		require.Equal(t, timeout.BreakerHalfOpen, b.State())
		require.NoError(t, b.Do((&service{}).call))
		require.Equal(t, timeout.BreakerClosed, b.State())
	})
}

func TestAPanicIsAFailure(t *testing.T) {
	t.Parallel()
	b := newBreaker(t, timeout.BreakerOptions{FailureThreshold: 1})
	require.PanicsWithValue(t, "on purpose", func() { _ = b.Do(func() error { panic("on purpose") }) })
	require.Equal(t, timeout.BreakerOpen, b.State())
}

func TestCircuitBreakerRefusesBadInput(t *testing.T) {
	t.Parallel()
	for want, options := range map[string]timeout.BreakerOptions{
		"FailureThreshold -2 is negative": {FailureThreshold: -2},
		"OpenTimeout -1s is negative":     {OpenTimeout: -time.Second},
	} {
		_, err := timeout.NewCircuitBreaker(options)
		require.ErrorIs(t, err, timeout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}
