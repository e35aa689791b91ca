package backends_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/stretchr/testify/require"
)

// impatient is a client that waits for an answer of a frozen server for a tenth of a
// second.
func impatient(t *testing.T, server *redistest.Server) *redis.Client {
	t.Helper()
	options := server.Options()
	patience := redistest.Patience{Away: server.IsFrozen, Wait: 100 * time.Millisecond}
	options.Dialer, options.ReadTimeout = patience.Dial, serverPatience
	// After as many failed dials the library starts a goroutine that outlives the
	// client for a second.
	options.PoolSize = 10_000
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

func openCircuits(t *testing.T, b *backends.RedisBackend) int {
	t.Helper()
	stats, _ := b.GetStats(t.Context())
	return stats.OpenCircuits
}

// A server that was stopped, or that answers nothing, is not asked any more; once
// it is back it is asked again, with or without replicas to confirm.
func TestRedisCircuitBreaker(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		fail, heal func(t *testing.T, server *redistest.Server)
		acks       int
	}{
		"stopped": {
			fail: func(_ *testing.T, server *redistest.Server) { server.Kill() },
			heal: func(t *testing.T, server *redistest.Server) { t.Helper(); require.NoError(t, server.Run()) },
		},
		"frozen": {
			fail: func(_ *testing.T, server *redistest.Server) { server.Signal(redistest.Stop) },
			heal: func(_ *testing.T, server *redistest.Server) { server.Signal(redistest.Continue) },
		},
		"frozen, with replicas": {
			fail: func(_ *testing.T, server *redistest.Server) { server.Signal(redistest.Stop) },
			heal: func(_ *testing.T, server *redistest.Server) { server.Signal(redistest.Continue) },
			acks: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			const open = 300 * time.Millisecond
			b := openRedis(t, impatient(t, server), &enhanced.EnhancedConfig{
				EnableCircuitBreaker: true, CircuitFailureThreshold: 3, CircuitOpenTimeout: open, RedisMinReplicasAck: fault.acks,
			})
			require.NoError(t, b.HealthCheck(t.Context()))
			fault.fail(t, server)
			try := func() error {
				_, _, err := b.TryAcquireLock(t.Context(), by("org/app", "p", "ann"))
				return err
			}
			failures := 0
			backendtest.Eventually(t, "the circuit opens", func() bool {
				err := try()
				require.ErrorIs(t, err, enhanced.ErrBackend)
				failures++
				return errors.Is(err, timeout.ErrOpen)
			})
			require.GreaterOrEqual(t, failures, 2)
			require.Equal(t, 1, openCircuits(t, b))
			backendtest.Eventually(t, "a list is not tried either", func() bool {
				_, err := b.ListLocks(t.Context())
				return errors.Is(err, timeout.ErrOpen)
			})

			// A call is answered at once, and knows that nothing was done, but for
			// the one in each period that tries.
			asked, soonest := 0, time.Hour // a busy machine is late at times
			for start := time.Now(); time.Since(start) < 3*open; {
				last := time.Now()
				if err := try(); !errors.Is(err, timeout.ErrOpen) {
					asked++
				} else {
					require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
					soonest = min(soonest, time.Since(last))
				}
			}
			require.LessOrEqual(t, asked, 4)
			require.Less(t, soonest, 90*time.Millisecond)

			fault.heal(t, server)
			backendtest.Eventually(t, "the circuit closes", func() bool {
				err := try()
				return !errors.Is(err, timeout.ErrOpen) && (err == nil || errors.Is(err, enhanced.ErrOutcomeUnknown) && fault.acks > 0)
			})
			if fault.acks == 0 {
				require.Zero(t, openCircuits(t, b))
			}
		})
	}
}

// Refusals and hurried callers say nothing bad about a server.
func TestRedisCircuitStaysClosed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := server.Client()
	b := openRedis(t, client, &enhanced.EnhancedConfig{EnableCircuitBreaker: true, CircuitFailureThreshold: 1})
	_, err := b.AcquireLock(t.Context(), by("org/app", ".", "bob"))
	require.NoError(t, err)
	for range 50 {
		_, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.ErrorIs(t, b.ReleaseLock(t.Context(), "no-such-lock"), enhanced.ErrLockNotFound)
	}
	require.NoError(t, client.Do(t.Context(), "client", "pause", 300, "all").Err())
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := b.AcquireLock(ctx, by("org/app", ".", "ann"))
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Zero(t, openCircuits(t, b))
	_, err = b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrLockExists)
}

// The options count from the next call on, in both directions.
func TestRedisGuardsFollowTheConfiguration(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b := openRedis(t, impatient(t, server), nil)
	try := func() error {
		_, _, err := b.TryAcquireLock(t.Context(), by("org/app", ".", "ann"))
		return err
	}
	require.NoError(t, try())
	server.Kill()
	on := &enhanced.EnhancedConfig{EnableCircuitBreaker: true, CircuitFailureThreshold: 1, CircuitOpenTimeout: time.Hour}
	for range 5 {
		require.NotErrorIs(t, try(), timeout.ErrOpen)
	}
	require.NoError(t, b.UpdateConfiguration(on))
	require.NotErrorIs(t, try(), timeout.ErrOpen)
	require.ErrorIs(t, try(), timeout.ErrOpen)
	other := *on
	other.MaxQueueSize = 7
	require.NoError(t, b.UpdateConfiguration(&other))
	require.ErrorIs(t, try(), timeout.ErrOpen, "a change of something else leaves the circuit as it is")
	require.NoError(t, b.UpdateConfiguration(&enhanced.EnhancedConfig{}))
	require.NotErrorIs(t, try(), timeout.ErrOpen)
}

// A script that takes much longer than usual is ended long before the client's
// own time-out, and the caller is told that its outcome is unknown.
func TestRedisAdaptiveTimeout(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	options := server.Options()
	options.ReadTimeout = time.Minute
	client := redis.NewClient(options)
	defer client.Close()
	b := openRedis(t, client, &enhanced.EnhancedConfig{
		EnableAdaptiveTimeout: true, AdaptiveTimeoutMin: 300 * time.Millisecond, AdaptiveTimeoutMax: 10 * time.Second,
	})
	// On a busy machine a script can take long by itself; the same request then has
	// what the late one got.
	acquire := func(path string) {
		t.Helper()
		r := by("org/app", path, "ann")
		r.ID = path
		backendtest.Eventually(t, path+" is answered in time", func() bool {
			_, err := b.AcquireLock(t.Context(), r)
			if err != nil {
				require.ErrorIs(t, err, enhanced.ErrBackend)
			}
			return err == nil
		})
	}
	for i := range 40 {
		acquire(strconv.Itoa(i))
	}
	server.Signal(redistest.Stop)
	start := time.Now()
	r := by("org/app", "frozen", "ann")
	r.ID = "frozen"
	_, err := b.AcquireLock(t.Context(), r)
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	require.ErrorContains(t, err, "which is long for the script common")
	require.Less(t, time.Since(start), options.ReadTimeout/2)
	// A caller with less time is told that its own has run out.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = b.AcquireLock(ctx, by("org/app", "hurried", "ann"))
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	require.NotContains(t, err.Error(), "long for the script")
	server.Signal(redistest.Continue)
	acquire("frozen")
}
