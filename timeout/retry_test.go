package timeout_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/stretchr/testify/require"
)

var (
	errPassing = errors.New("may pass")
	errLasting = errors.New("lasts")
)

func isPassing(err error) bool { return errors.Is(err, errPassing) }

func newRetry(t *testing.T, options timeout.RetryOptions) *timeout.RetryManager {
	t.Helper()
	r, err := timeout.NewRetryManager(options)
	require.NoError(t, err)
	return r
}

func TestAttemptsAreCountedExactly(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		max      int
		answers  []error // the last one for all that follow
		attempts int
		err      error
	}{
		"success at once":       {max: 5, answers: []error{nil}, attempts: 1},
		"success at the third":  {max: 5, answers: []error{errPassing, errPassing, nil}, attempts: 3},
		"success at the last":   {max: 3, answers: []error{errPassing, errPassing, nil}, attempts: 3},
		"never":                 {max: 4, answers: []error{errPassing}, attempts: 4, err: errPassing},
		"by default 3":          {max: 0, answers: []error{errPassing}, attempts: 3, err: errPassing},
		"one only":              {max: 1, answers: []error{errPassing}, attempts: 1, err: errPassing},
		"not worth it":          {max: 5, answers: []error{errLasting}, attempts: 1, err: errLasting},
		"not worth it any more": {max: 5, answers: []error{errPassing, errLasting}, attempts: 2, err: errLasting},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRetry(t, timeout.RetryOptions{MaxAttempts: test.max, BaseDelay: time.Hour, MaxDelay: 10 * time.Hour})
				calls := 0
				attempts, err := r.Do(context.Background(), isPassing, func(context.Context) error {
					calls++
					return test.answers[min(calls, len(test.answers))-1]
				})
				require.Equal(t, test.attempts, calls)
				require.Equal(t, test.attempts, attempts)
				require.Equal(t, test.err, err)
			})
		})
	}
}

// TestPausesHaveFullJitter looks at thousands of pauses: they fill what is
// between zero and the bound, evenly, and the bound doubles up to MaxDelay.
func TestPausesHaveFullJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRetry(t, timeout.RetryOptions{MaxAttempts: 7, BaseDelay: time.Second, MaxDelay: 10 * time.Second})
		bounds := []time.Duration{1, 2, 4, 8, 10, 10}
		const rounds = 4000
		sums, highest, lowest := make([]float64, len(bounds)), make([]float64, len(bounds)), make([]float64, len(bounds))
		for i := range lowest {
			lowest[i] = 1
		}
		for range rounds {
			var last time.Time
			n := 0
			_, err := r.Do(context.Background(), isPassing, func(context.Context) error {
				if n > 0 {
					share := float64(time.Since(last)) / float64(bounds[n-1]*time.Second)
					sums[n-1] += share
					highest[n-1], lowest[n-1] = max(highest[n-1], share), min(lowest[n-1], share)
				}
				n++
				last = time.Now()
				return errPassing
			})
			require.ErrorIs(t, err, errPassing)
		}
		for i := range bounds {
			require.InDelta(t, 0.5, sums[i]/rounds, 0.03, "pause %d", i+1)
			require.LessOrEqual(t, highest[i], 1.000001, "pause %d", i+1)
			require.Greater(t, highest[i], 0.99, "pause %d", i+1)
			require.Less(t, lowest[i], 0.01, "pause %d", i+1)
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRetry(t, timeout.RetryOptions{MaxAttempts: 1000, BaseDelay: time.Hour, MaxDelay: time.Hour})
		ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
		defer cancel()
		start, calls := time.Now(), 0
		attempts, err := r.Do(ctx, isPassing, func(context.Context) error { calls++; return errPassing })
		require.ErrorIs(t, err, errPassing)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "may pass; not tried again: context deadline exceeded")
		require.Equal(t, 24*time.Hour, time.Since(start))
		require.Equal(t, calls, attempts)
		require.Greater(t, attempts, 10)

		// With a context that has ended there is one attempt, which sees it.
		attempts, err = r.Do(ctx, isPassing, func(ctx context.Context) error {
			require.Error(t, ctx.Err())
			return errPassing
		})
		require.Equal(t, 1, attempts)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestASuccessAllocatesNothing(t *testing.T) {
	r := newRetry(t, timeout.RetryOptions{})
	calls := 0
	allocations := testing.AllocsPerRun(100, func() {
		_, err := r.Do(context.Background(), isPassing, func(context.Context) error { calls++; return nil })
		require.NoError(t, err)
	})
	require.Zero(t, allocations)
}

func TestRetryRefusesBadInput(t *testing.T) {
	t.Parallel()
	for want, options := range map[string]timeout.RetryOptions{
		"MaxAttempts -1 is negative":       {MaxAttempts: -1},
		"BaseDelay -1ns is negative":       {BaseDelay: -1},
		"MaxDelay -1s is negative":         {MaxDelay: -time.Second},
		"BaseDelay 1m0s is above MaxDelay": {BaseDelay: time.Minute},
	} {
		_, err := timeout.NewRetryManager(options)
		require.ErrorIs(t, err, timeout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}
