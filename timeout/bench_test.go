package timeout_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
)

// BenchmarkTimers takes what a timer costs beside others: it adds, extends and
// cancels one.
func BenchmarkTimers(b *testing.B) {
	for _, pending := range []int{1, 1_000, 1_000_000} {
		b.Run(fmt.Sprintf("pending=%d", pending), func(b *testing.B) {
			m, stop := filled(b, pending)
			defer stop()
			nothing := func(context.Context) {}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				timer, err := m.After(time.Hour+time.Duration(i)*time.Microsecond, nothing)
				if err != nil {
					b.Fatal(err)
				}
				timer.Extend(2 * time.Hour)
				timer.Cancel()
			}
		})
	}
}

// BenchmarkTimersFire takes what a timer costs that is called, when so many are
// due within 10 ms.
func BenchmarkTimersFire(b *testing.B) {
	for _, timers := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("timers=%d", timers), func(b *testing.B) {
			for b.Loop() {
				m, err := timeout.NewTimeoutManager(timeout.TimeoutManagerOptions{})
				if err != nil {
					b.Fatal(err)
				}
				var all sync.WaitGroup
				all.Add(timers)
				called := func(context.Context) { all.Done() }
				for i := range timers {
					if _, err := m.After(time.Duration(i)*10*time.Millisecond/time.Duration(timers), called); err != nil {
						b.Fatal(err)
					}
				}
				all.Wait()
				if err := m.Stop(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(timers), "ns/timer")
		})
	}
}

func filled(b *testing.B, pending int) (*timeout.TimeoutManager, func()) {
	b.Helper()
	m, err := timeout.NewTimeoutManager(timeout.TimeoutManagerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range pending {
		if _, err := m.After(time.Hour+time.Duration(i)*time.Millisecond, func(context.Context) {}); err != nil {
			b.Fatal(err)
		}
	}
	return m, func() { _ = m.Stop(context.Background()) }
}

func BenchmarkRetrySuccess(b *testing.B) {
	r, err := timeout.NewRetryManager(timeout.RetryOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = r.Do(context.Background(), isPassing, func(context.Context) error { return nil })
	}
}

func BenchmarkCircuitBreakerClosed(b *testing.B) {
	breaker, err := timeout.NewCircuitBreaker(timeout.BreakerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = breaker.Do(func() error { return nil })
	}
}

func BenchmarkAdaptiveTimeout(b *testing.B) {
	m, err := timeout.NewAdaptiveTimeoutManager(timeout.AdaptiveOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_ = m.Timeout("acquire")
		m.Observe("acquire", time.Duration(i%1000)*time.Microsecond)
	}
}
