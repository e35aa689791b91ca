package timeout_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newManager(t *testing.T, options timeout.TimeoutManagerOptions) *timeout.TimeoutManager {
	t.Helper()
	m, err := timeout.NewTimeoutManager(options)
	require.NoError(t, err)
	return m
}

func stop(t *testing.T, m *timeout.TimeoutManager) {
	t.Helper()
	require.NoError(t, m.Stop(context.Background()))
}

func TestCallbacksAtTheirDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, timeout.TimeoutManagerOptions{})
		defer stop(t, m)
		const timers = 20_000
		var called atomic.Int64
		random := rand.New(rand.NewPCG(1, 2))
		for range timers {
			d := time.Duration(random.Int64N(int64(48 * time.Hour)))
			deadline := time.Now().Add(d)
			_, err := m.After(d, func(context.Context) {
				called.Add(1)
				late := time.Since(deadline)
				assert.GreaterOrEqual(t, late, time.Duration(0), "early")
				assert.LessOrEqual(t, late, timeout.Tick)
			})
			require.NoError(t, err)
			if random.IntN(100) == 0 {
				<-time.After(time.Duration(random.Int64N(int64(time.Second))))
			}
		}
		<-time.After(49 * time.Hour)
		synctest.Wait()
		require.EqualValues(t, timers, called.Load())
		require.Zero(t, m.Len())
	})
}

func TestADeadlineBeforeTheOthersWakesTheLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, timeout.TimeoutManagerOptions{})
		defer stop(t, m)
		_, err := m.After(time.Hour, func(context.Context) {})
		require.NoError(t, err)
		synctest.Wait()
		start, at := time.Now(), make(chan time.Time, 1)
		_, err = m.After(time.Minute, func(context.Context) { at <- time.Now() })
		require.NoError(t, err)
		require.Equal(t, time.Minute, (<-at).Sub(start))
	})
}

func TestFarAndPastDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, timeout.TimeoutManagerOptions{})
		defer stop(t, m)
		_, err := m.After(1<<63-1, func(context.Context) { t.Error("called") })
		require.NoError(t, err)
		for _, d := range []time.Duration{0, -1, -1 << 63} {
			start, at := time.Now(), make(chan time.Time, 1)
			_, err := m.After(d, func(context.Context) { at <- time.Now() })
			require.NoError(t, err)
			require.LessOrEqual(t, (<-at).Sub(start), timeout.Tick)
		}
		<-time.After(24 * 365 * time.Hour)
		require.Equal(t, 1, m.Len())
	})
}

func TestCancelAndExtend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, timeout.TimeoutManagerOptions{})
		defer stop(t, m)
		start, at := time.Now(), make(chan time.Duration, 9)
		after := func(d time.Duration) *timeout.Timer {
			timer, err := m.After(d, func(context.Context) { at <- time.Since(start) })
			require.NoError(t, err)
			return timer
		}
		cancelled, later, earlier := after(time.Hour), after(time.Hour), after(time.Hour)
		require.True(t, cancelled.Cancel())
		require.False(t, cancelled.Cancel())
		require.False(t, cancelled.Extend(time.Minute))
		require.True(t, later.Extend(2*time.Hour))
		require.True(t, earlier.Extend(time.Minute))
		require.Equal(t, 2, m.Len())
		<-time.After(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, time.Minute, <-at)
		require.Equal(t, 2*time.Hour, <-at)
		require.Empty(t, at)
		require.False(t, later.Cancel(), "it has started")
		require.False(t, later.Extend(time.Hour))
	})
}

// TestATimerThatWaitsForAGoroutine has its callback kept from starting by others.
func TestATimerThatWaitsForAGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, timeout.TimeoutManagerOptions{MaxRunning: 2})
		defer stop(t, m)
		release, calls := make(chan struct{}), make(chan string, 9)
		after := func(name string, d time.Duration) *timeout.Timer {
			timer, err := m.After(d, func(context.Context) { calls <- name; <-release })
			require.NoError(t, err)
			return timer
		}
		after("first", time.Second)
		after("second", time.Second)
		third, fourth, fifth := after("third", 2*time.Second), after("fourth", 3*time.Second), after("fifth", 4*time.Second)
		<-time.After(time.Minute)
		synctest.Wait()
		require.Len(t, calls, 2, "no more than MaxRunning")
		require.Equal(t, 3, m.Len())
		require.True(t, third.Cancel())
		require.True(t, fourth.Extend(time.Hour))
		close(release)
		synctest.Wait()
		require.Len(t, calls, 3)
		<-time.After(time.Hour)
		synctest.Wait()
		<-calls
		<-calls
		require.Equal(t, "fifth", <-calls)
		require.Equal(t, "fourth", <-calls)
		require.Empty(t, calls)
		require.False(t, fifth.Cancel())
	})
}

func TestStopWaitsForRunningCallbacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, timeout.TimeoutManagerOptions{MaxRunning: 1})
		release := make(chan struct{})
		_, err := m.After(time.Second, func(ctx context.Context) {
			<-ctx.Done()
			<-release
		})
		require.NoError(t, err)
		for _, d := range []time.Duration{time.Second, time.Hour} {
			_, err = m.After(d, func(context.Context) { t.Error("called after Stop") })
			require.NoError(t, err)
		}
		pending, err := m.After(time.Hour, func(context.Context) { t.Error("called after Stop") })
		require.NoError(t, err)
		<-time.After(time.Minute)

		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.ErrorIs(t, m.Stop(ctx), context.DeadlineExceeded)
		_, err = m.After(time.Second, func(context.Context) {})
		require.ErrorIs(t, err, timeout.ErrStopped)
		require.False(t, pending.Cancel())
		require.False(t, pending.Extend(time.Second))
		require.Zero(t, m.Len())

		stopped := make(chan error)
		for range 2 {
			go func() { stopped <- m.Stop(context.Background()) }()
		}
		synctest.Wait()
		require.Empty(t, stopped)
		close(release)
		require.NoError(t, <-stopped)
		require.NoError(t, <-stopped)
		<-time.After(2 * time.Hour)
	})
}

func TestStopBeforeTheFirstTimer(t *testing.T) {
	t.Parallel()
	m := newManager(t, timeout.TimeoutManagerOptions{})
	stop(t, m)
	stop(t, m)
}

func TestACallbackThatPanicsOrExitsHarmsNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		panics := make(chan any, 9)
		m := newManager(t, timeout.TimeoutManagerOptions{MaxRunning: 1, OnPanic: func(value any, stack []byte) {
			assert.Contains(t, string(stack), "manager_test.go")
			panics <- value
		}})
		defer stop(t, m)
		called := make(chan struct{}, 9)
		for i := range 6 {
			_, err := m.After(time.Second, func(context.Context) {
				switch i % 3 {
				case 0:
					panic("on purpose")
				case 1:
					runtime.Goexit()
				}
				called <- struct{}{}
			})
			require.NoError(t, err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		require.Len(t, panics, 2)
		require.Equal(t, "on purpose", <-panics)
		require.Len(t, called, 2)
	})
}

// TestManyCallersAtOnce counts, with real time: each timer is called or
// cancelled, never both.
func TestManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	m := newManager(t, timeout.TimeoutManagerOptions{})
	const goroutines, each = 8, 500
	var called, cancelled atomic.Int64
	var all, ended sync.WaitGroup
	ended.Add(goroutines * each)
	for range goroutines {
		all.Go(func() {
			for i := range each {
				timer, err := m.After(time.Duration(i%7)*time.Millisecond, func(context.Context) {
					called.Add(1)
					ended.Done()
				})
				if !assert.NoError(t, err) {
					return
				}
				if i%3 == 0 {
					timer.Extend(time.Duration(i%5) * time.Millisecond)
				}
				if i%2 == 0 && timer.Cancel() {
					cancelled.Add(1)
					ended.Done()
				}
			}
		})
	}
	all.Wait()
	ended.Wait()
	stop(t, m)
	require.EqualValues(t, goroutines*each, called.Load()+cancelled.Load())
}

func TestTimeoutManagerRefusesBadInput(t *testing.T) {
	t.Parallel()
	_, err := timeout.NewTimeoutManager(timeout.TimeoutManagerOptions{MaxRunning: -1})
	require.ErrorIs(t, err, timeout.ErrInvalid)
	require.ErrorContains(t, err, "MaxRunning -1")
	m := newManager(t, timeout.TimeoutManagerOptions{})
	_, err = m.After(time.Second, nil)
	require.ErrorIs(t, err, timeout.ErrInvalid)
}
