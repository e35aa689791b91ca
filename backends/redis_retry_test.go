package backends_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/stretchr/testify/require"
)

func retrying(attempts int) *enhanced.EnhancedConfig {
	return &enhanced.EnhancedConfig{
		EnableRetry: true, MaxRetryAttempts: attempts, RetryBaseDelay: 10 * time.Millisecond, RetryMaxDelay: 50 * time.Millisecond,
	}
}

func retries(t *testing.T, m *enhanced.EnhancedLockManager) int64 {
	t.Helper()
	stats, _ := m.GetStats(t.Context())
	return stats.Retries
}

// Calls of a manager outlive a restart of the server, and a server that answers
// nothing for a while.
func TestRetryOutlivesAnOutage(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct{ fail, heal func(*redistest.Server) error }{
		"restart": {
			fail: func(s *redistest.Server) error { s.Kill(); return nil },
			heal: func(s *redistest.Server) error { return s.Run() },
		},
		"freeze": {
			fail: func(s *redistest.Server) error { s.Signal(redistest.Stop); return nil },
			heal: func(s *redistest.Server) error { s.Signal(redistest.Continue); return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			config := retrying(10_000)
			b := openRedis(t, impatient(t, server), config)
			m := enhanced.NewEnhancedLockManager(b, config, nil)
			require.NoError(t, m.GetHealth(t.Context()))
			require.NoError(t, fault.fail(server))
			type answer struct {
				lock *enhanced.EnhancedLock
				err  error
			}
			answers := make(chan answer, 1)
			go func() {
				lock, err := m.Acquire(context.WithoutCancel(t.Context()), by("org/app", ".", "ann"))
				answers <- answer{lock, err}
			}()
			backendtest.Eventually(t, "it is tried again", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				stats, _ := m.GetStats(ctx)
				return stats.StoreFailures >= 3
			})
			require.NoError(t, fault.heal(server))
			a := <-answers
			require.NoError(t, a.err)
			require.GreaterOrEqual(t, retries(t, m), int64(3))
			page, err := b.ReadLog(t.Context(), "org/app", 0, 10)
			require.NoError(t, err)
			require.Len(t, page.Records, 1, "acquired once")
			held, err := b.LookupLock(t.Context(), a.lock.Resource)
			require.NoError(t, err)
			require.Equal(t, a.lock.ID, held.ID)
		})
	}
}

func TestRetryCountsAttemptsExactly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := retrying(4)
	m := enhanced.NewEnhancedLockManager(openRedis(t, impatient(t, server), config), config, nil)
	require.NoError(t, m.GetHealth(t.Context()))
	server.Kill()
	_, err := m.Acquire(t.Context(), by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorContains(t, err, "after 4 attempts: acquire org/app")
	stats, err := m.GetStats(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.EqualValues(t, 3, stats.Retries)
	require.EqualValues(t, 4, stats.StoreFailures)

	// Readings are repeated, too.
	_, err = m.List(t.Context())
	require.ErrorContains(t, err, "after 4 attempts")
	require.EqualValues(t, 6, retries(t, m))

	require.NoError(t, m.UpdateConfiguration(&enhanced.EnhancedConfig{}))
	_, err = m.List(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.NotContains(t, err.Error(), "attempts")
	require.EqualValues(t, 6, retries(t, m))
}

// A reply that is lost is asked for again, and the lock is acquired once.
func TestRetryAfterALostReplyAcquiresOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	var lost atomic.Int32
	config := retrying(10)
	b := openRedis(t, lossyClient(t, server, func() bool { return lost.Add(-1) >= 0 }), config)
	m := enhanced.NewEnhancedLockManager(b, config, nil)
	require.NoError(t, m.GetHealth(t.Context()))
	// The script for common cases decides only in a repository that exists.
	_, err := m.Acquire(t.Context(), by("org/app", "first", "ann"))
	require.NoError(t, err)
	lost.Store(3)
	lock, acquired, err := m.TryAcquire(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	require.True(t, acquired)
	require.EqualValues(t, 3, retries(t, m))
	page, err := b.ReadLog(t.Context(), "org/app", 0, 10)
	require.NoError(t, err)
	require.Len(t, page.Records, 2, "the first one, and this one once")

	// What a lost reply was about may be another owner's by now: nothing that
	// releases is done again.
	lost.Store(1)
	_, err = m.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true, Actor: "user:eve", Reason: "test"})
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	require.EqualValues(t, 3, retries(t, m))
	_, err = b.LookupLock(t.Context(), lock.Resource)
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
}

// A call that can wait gives back what it has got without knowing it. The next attempt
// asks anew, and for who has given the request its ID says that it is used up.
func TestRetryOfACallThatCanWait(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	var lost atomic.Int32
	config := retrying(10)
	config.EnablePriorityQueue = true
	b := openRedis(t, lossyClient(t, server, func() bool { return lost.Add(-1) >= 0 }), config)
	m := enhanced.NewEnhancedLockManager(b, config, nil)
	require.NoError(t, m.GetHealth(t.Context()))
	_, err := m.Acquire(t.Context(), by("org/app", "first", "ann"))
	require.NoError(t, err)
	requireHeld := func(t *testing.T, locks ...*enhanced.EnhancedLock) {
		t.Helper()
		for _, lock := range locks {
			held, err := b.LookupLock(t.Context(), lock.Resource)
			require.NoError(t, err)
			require.Equal(t, lock.ID, held.ID)
		}
	}
	for i, n := range []int32{1, 2} {
		lost.Store(n)
		lock, err := m.Acquire(t.Context(), by("org/app", fmt.Sprint("one", i), "ann"))
		require.NoError(t, err)
		requireHeld(t, lock)
	}
	lost.Store(1)
	locks, err := m.LockAll(t.Context(), []*enhanced.EnhancedLockRequest{by("org/app", "a", "ann"), by("org/app", "b", "ann")})
	require.NoError(t, err)
	require.Len(t, locks, 2)
	requireHeld(t, locks...)

	named := by("org/app", "named", "ann")
	named.ID = "mine"
	lost.Store(1)
	_, err = m.Acquire(t.Context(), named)
	require.ErrorIs(t, err, enhanced.ErrLockExpired)
	require.ErrorIs(t, err, enhanced.ErrRequestEnded)
	_, err = b.LookupLock(t.Context(), enhanced.ProjectResource(named.Project, named.Workspace))
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
}

func TestRetryEndsWithTheCallsContext(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := &enhanced.EnhancedConfig{EnableRetry: true, MaxRetryAttempts: 1000, RetryBaseDelay: time.Hour, RetryMaxDelay: time.Hour}
	m := enhanced.NewEnhancedLockManager(openRedis(t, impatient(t, server), config), config, nil)
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := m.Acquire(ctx, by("org/app", ".", "ann"))
	require.Error(t, ctx.Err())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, enhanced.ErrBackend)
}

// Only what may pass is repeated: no refusal, and no call of a server that is
// known to be down.
func TestRetryOnlyWhatMayPass(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := retrying(100)
	config.EnableCircuitBreaker, config.CircuitFailureThreshold, config.CircuitOpenTimeout = true, 2, time.Hour
	m := enhanced.NewEnhancedLockManager(openRedis(t, impatient(t, server), config), config, nil)
	lock, err := m.Acquire(t.Context(), by("org/app", ".", "bob"))
	require.NoError(t, err)
	_, err = m.Acquire(t.Context(), by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	_, err = m.Acquire(t.Context(), by("org/app", strings.Repeat("x", 5000), "ann"))
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	_, err = m.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: "user:ann"})
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	require.Zero(t, retries(t, m))

	server.Kill()
	_, err = m.Acquire(t.Context(), by("org/app", ".", "ann"))
	require.ErrorIs(t, err, timeout.ErrOpen)
	require.LessOrEqual(t, retries(t, m), int64(3), "the circuit has ended it")
}

// A held lock is asked for again only when that is wanted, and never one's own.
func TestRetryLockExists(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := retrying(100_000)
	config.RetryLockExists = true
	b := openRedis(t, server.Client(), config)
	m := enhanced.NewEnhancedLockManager(b, config, nil)
	lock, err := m.Acquire(t.Context(), by("org/app", ".", "bob"))
	require.NoError(t, err)
	_, err = m.Acquire(t.Context(), by("org/app", ".", "bob"))
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	require.Zero(t, retries(t, m), "it is bob's own")
	_, err = m.AcquireNow(t.Context(), by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	require.Zero(t, retries(t, m), "AcquireNow does not wait")

	granted := make(chan error, 1)
	go func() {
		_, err := m.Acquire(context.WithoutCancel(t.Context()), by("org/app", ".", "ann"))
		granted <- err
	}()
	backendtest.Eventually(t, "it has asked again", func() bool {
		stats, _ := m.GetStats(t.Context())
		return stats.Refused >= 4
	})
	require.Empty(t, granted)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-granted)
	held, err := b.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, "user:ann", held.Owner)
}

// A manager's calls ride out a pause with time-outs that follow the latency.
func TestRetryWithAdaptiveTimeout(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := retrying(10_000)
	config.EnableAdaptiveTimeout, config.AdaptiveTimeoutMin, config.AdaptiveTimeoutMax = true, 20*time.Millisecond, 100*time.Millisecond
	client := server.Client()
	b := openRedis(t, client, config)
	m := enhanced.NewEnhancedLockManager(b, config, nil)
	require.NoError(t, m.GetHealth(t.Context()))
	require.NoError(t, client.Do(t.Context(), "client", "pause", 500, "all").Err())
	_, err := m.Acquire(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	require.Positive(t, retries(t, m))
	page, err := b.ReadLog(t.Context(), "org/app", 0, 10)
	require.NoError(t, err)
	require.Len(t, page.Records, 1, "acquired once")
}
