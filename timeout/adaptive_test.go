package timeout_test

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/stretchr/testify/require"
)

func newAdaptive(t *testing.T, options timeout.AdaptiveOptions) *timeout.AdaptiveTimeoutManager {
	t.Helper()
	m, err := timeout.NewAdaptiveTimeoutManager(options)
	require.NoError(t, err)
	return m
}

func TestAdaptiveTimeoutIsItsFormula(t *testing.T) {
	t.Parallel()
	m := newAdaptive(t, timeout.AdaptiveOptions{Min: time.Millisecond, Max: time.Minute, Quantile: 0.5, Factor: 3})
	require.Equal(t, time.Minute, m.Timeout("read"), "nothing is known")
	for i := range 15 {
		m.Observe("read", time.Duration(i+1)*time.Second)
		require.Equal(t, time.Minute, m.Timeout("read"), "too little is known")
	}
	m.Observe("read", 16*time.Second)
	require.Equal(t, 24*time.Second, m.Timeout("read"), "3 times the 8th of 16")
	require.Equal(t, time.Minute, m.Timeout("write"), "each operation has its own")
	// The window forgets: 256 later ones are all that counts.
	for range 256 {
		m.Observe("read", time.Second)
	}
	require.Equal(t, 3*time.Second, m.Timeout("read"))
	for range 256 {
		m.Observe("read", time.Hour)
	}
	require.Equal(t, time.Minute, m.Timeout("read"), "at most Max")
	for range 256 {
		m.Observe("read", 1)
	}
	require.Equal(t, time.Millisecond, m.Timeout("read"), "at least Min")
}

// TestAdaptiveTimeoutFollowsASlowDown has calls made to a service whose latency
// changes, each ended by the time-out of its moment.
func TestAdaptiveTimeoutFollowsASlowDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newAdaptive(t, timeout.AdaptiveOptions{Min: 10 * time.Millisecond, Max: 10 * time.Second})
		random := rand.New(rand.NewPCG(3, 4))
		// phase makes calls with a mean latency and returns how many were ended.
		phase := func(calls int, mean time.Duration) (ended int) {
			for range calls {
				latency := time.Duration(float64(mean) * min(4, random.ExpFloat64()))
				ctx, cancel := context.WithTimeout(context.Background(), m.Timeout("acquire"))
				start := time.Now()
				select {
				case <-time.After(latency):
				case <-ctx.Done():
					ended++
				}
				cancel()
				m.Observe("acquire", time.Since(start))
			}
			return ended
		}
		require.Zero(t, phase(1000, 2*time.Millisecond))
		fast := m.Timeout("acquire")
		require.InDelta(t, 4*8*float64(time.Millisecond), float64(fast), 8*float64(time.Millisecond), "4 times the 0.99 quantile")

		// A hundred times slower: most calls are ended at first, few for long.
		require.Less(t, phase(500, 200*time.Millisecond), 100)
		require.Zero(t, phase(500, 200*time.Millisecond), "the time-out has followed")
		slow := m.Timeout("acquire")
		require.Greater(t, slow, 2*time.Second)
		require.LessOrEqual(t, slow, 10*time.Second)

		// And back: no sooner than the slow ones have left, and no later.
		require.Zero(t, phase(300, 2*time.Millisecond))
		require.InDelta(t, float64(fast), float64(m.Timeout("acquire")), 8*float64(time.Millisecond))
	})
}

func TestOneSlowCallChangesLittle(t *testing.T) {
	t.Parallel()
	m := newAdaptive(t, timeout.AdaptiveOptions{Min: time.Millisecond})
	for range 300 {
		m.Observe("read", 10*time.Millisecond)
	}
	m.Observe("read", 4*time.Second)
	for range 16 {
		m.Observe("read", 10*time.Millisecond)
	}
	require.Equal(t, 40*time.Millisecond, m.Timeout("read"))
}

func TestAdaptiveTimeoutManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	m := newAdaptive(t, timeout.AdaptiveOptions{})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 1000 {
				m.Observe([]string{"read", "write"}[i%2], 200*time.Millisecond)
				m.Timeout("read")
			}
		})
	}
	all.Wait()
	require.Equal(t, 800*time.Millisecond, m.Timeout("read"))
}

func TestAdaptiveTimeoutRefusesBadInput(t *testing.T) {
	t.Parallel()
	for want, options := range map[string]timeout.AdaptiveOptions{
		"Min -1s is negative":                       {Min: -time.Second},
		"Min 1m0s is above Max 5s":                  {Min: time.Minute},
		"Min 100ms is above Max -1ns":               {Max: -1},
		"Quantile 1.5 is not above 0 and at most 1": {Quantile: 1.5},
		"Quantile -1 is not above":                  {Quantile: -1},
		"Quantile NaN is not above":                 {Quantile: math.NaN()},
		"Factor 0.5 is not a number of at least 1":  {Factor: 0.5},
		"Factor +Inf is not a number of at least 1": {Factor: math.Inf(1)},
	} {
		_, err := timeout.NewAdaptiveTimeoutManager(options)
		require.ErrorIs(t, err, timeout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}
