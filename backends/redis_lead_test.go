package backends_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/deadline"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// leading is a client that notes whether what it sends is sent by its caller: only then
// it has a deadline.
func leading(t *testing.T, options *redis.Options) (*redis.Client, *atomic.Bool) {
	t.Helper()
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	led := new(atomic.Bool)
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		_, timed := ctx.Deadline()
		led.Store(timed)
		return next(ctx, cmd)
	}))
	return client, led
}

// A caller that sends by itself returns when its context ends: with a server that answers
// nothing, a client that waits for that without end, and no connection to spare. One whose
// context can be cancelled, or whose client does not go by deadlines, does not send by
// itself.
func TestRedisLoneCallersEndWithTheirContexts(t *testing.T) {
	t.Parallel()
	faults := map[string]func(t *testing.T, server *redistest.Server, client *redis.Client){
		"frozen": func(t *testing.T, server *redistest.Server, _ *redis.Client) {
			t.Helper()
			server.Signal(redistest.Stop)
			t.Cleanup(func() { server.Signal(redistest.Continue) })
		},
		"no connection": func(t *testing.T, _ *redistest.Server, client *redis.Client) {
			t.Helper()
			taken := client.Conn()
			require.NoError(t, taken.Ping(t.Context()).Err())
			t.Cleanup(func() { require.NoError(t, taken.Close()) })
		},
	}
	for name, fault := range faults {
		for _, honours := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, client goes by deadlines %t", name, honours), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t, redistest.Options{})
				options := server.Options()
				options.ContextTimeoutEnabled = honours
				options.ReadTimeout, options.WriteTimeout, options.PoolSize = -1, -1, 1 // no other end
				client, led := leading(t, options)
				b := openRedis(t, client, nil)
				require.NoError(t, b.HealthCheck(t.Context()))
				_, acquired, err := b.TryAcquireLock(deadline.In(serverPatience), by("org/app", "before", "ann"))
				require.NoError(t, err)
				require.True(t, acquired)
				require.Equal(t, honours, led.Load())
				fault(t, server, client)
				endsInTime(t, b)
			})
		}
	}
}

// endsInTime has callers ask whom nothing answers.
func endsInTime(t *testing.T, b *backends.RedisBackend) {
	t.Helper()
	const patience = 100 * time.Millisecond
	for _, cancelled := range []bool{false, true} {
		timed := deadline.In(patience)
		defer timed.End()
		ctx := context.Context(timed)
		if cancelled {
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(t.Context())
			defer time.AfterFunc(patience, cancel).Stop()
		}
		start := time.Now()
		_, _, err := b.TryAcquireLock(ctx, by("org/app", fmt.Sprint(cancelled), "ann"))
		require.ErrorIs(t, err, enhanced.ErrTimeout)
		require.Less(t, time.Since(start), serverPatience)
		require.GreaterOrEqual(t, time.Since(start), patience)
	}
}

// A caller that waits for less than the client would says nothing about the server when
// it goes.
func TestRedisHurriedCallersOpenNoCircuit(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	options := server.Options()
	options.ReadTimeout = serverPatience
	client, led := leading(t, options)
	b := openRedis(t, client, &enhanced.EnhancedConfig{
		EnableCircuitBreaker: true, CircuitFailureThreshold: 1, CircuitOpenTimeout: serverPatience,
	})
	require.NoError(t, b.HealthCheck(t.Context()))
	server.Signal(redistest.Stop)
	ctx := deadline.In(50 * time.Millisecond)
	_, _, err := b.TryAcquireLock(ctx, by("org/app", ".", "ann"))
	ctx.End()
	server.Signal(redistest.Continue)
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	require.False(t, led.Load())
	require.Zero(t, openCircuits(t, b))
}

// That a client has no connection to spare is no failure of the server, also where its
// caller goes before the client gives up.
func TestRedisCallersWithoutConnectionOpenNoCircuit(t *testing.T) {
	t.Parallel()
	options := redistest.Start(t, redistest.Options{}).Options()
	options.ReadTimeout, options.PoolTimeout, options.PoolSize = 100*time.Millisecond, serverPatience, 1
	client, _ := leading(t, options)
	b := openRedis(t, client, &enhanced.EnhancedConfig{
		EnableCircuitBreaker: true, CircuitFailureThreshold: 1, CircuitOpenTimeout: serverPatience,
	})
	require.NoError(t, b.HealthCheck(t.Context()))
	taken := client.Conn()
	require.NoError(t, taken.Ping(t.Context()).Err())
	ctx := deadline.In(200 * time.Millisecond)
	defer ctx.End()
	_, _, err := b.TryAcquireLock(ctx, by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	require.NoError(t, taken.Close())
	require.Zero(t, openCircuits(t, b))
}

// Callers that send by themselves and callers that do not get their answers, however they
// come together.
func TestRedisCallersLeadAndFollow(t *testing.T) {
	t.Parallel()
	b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), nil)
	require.NoError(t, b.HealthCheck(t.Context()))
	backendtest.Together(6, func(caller int) {
		for i := range 60 {
			ctx := context.WithoutCancel(t.Context())
			switch caller % 3 {
			case 0:
				timed := deadline.In(2 * serverPatience)
				defer timed.End()
				ctx = timed
			case 1:
				ctx = t.Context()
			}
			lock, acquired, err := b.TryAcquireLock(ctx, by("org/app", fmt.Sprint(caller), "ann"))
			if err == nil && acquired {
				err = b.ReleaseLock(ctx, lock.ID)
			}
			if err != nil || !acquired {
				t.Errorf("caller %d, lock %d: acquired %t, %v", caller, i, acquired, err)
				return
			}
		}
	})
}

// A hook that panics where its caller sends is the caller's; others are served.
func TestRedisPanicOfALoneCaller(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	var broken atomic.Bool
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if broken.Load() {
			panic(errBroken)
		}
		return next(ctx, cmd)
	}))
	b := backends.NewRedisBackend(client, nil, nil)
	_, err := b.AcquireLock(context.WithoutCancel(t.Context()), by("org/app", "first", "ann"))
	require.NoError(t, err)
	broken.Store(true)
	require.PanicsWithError(t, errBroken.Error(), func() {
		_, err = b.AcquireLock(context.WithoutCancel(t.Context()), by("org/app", "second", "ann"))
	})
	broken.Store(false)
	_, err = b.AcquireLock(context.WithoutCancel(t.Context()), by("org/app", "third", "ann"))
	require.NoError(t, err)
	require.NoError(t, b.Close())
}

var errBroken = errors.New("broken")
