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
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// The checks here answer what is wrong, so that each can be shown to see the bug
// that it is there for: with the bug put in between the backend and the server.

// hook changes what a client sends.
type hook func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error

func (hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return h(ctx, cmd, next) }
}

func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if err := h(ctx, cmd, func(ctx context.Context, cmd redis.Cmder) error { return next(ctx, []redis.Cmder{cmd}) }); err != nil {
				cmd.SetErr(err)
			}
		}
		return cmds[0].Err()
	}
}

// forgotten uses a server that forgets its scripts all the time.
func forgotten(t *testing.T, server *redistest.Server, client *redis.Client) error {
	t.Helper()
	b := openRedis(t, client, nil)
	if err := b.HealthCheck(t.Context()); err != nil {
		return err
	}
	admin := server.Client()
	ctx, cancel := context.WithCancel(t.Context())
	var flushed atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if admin.ScriptFlush(context.WithoutCancel(ctx)).Err() == nil {
					flushed.Add(1)
				}
			}
		}
	}()
	var problem error
	for start := time.Now(); (time.Since(start) < time.Second || flushed.Load() <= 20) && problem == nil; {
		lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
		if err == nil {
			err = b.ReleaseLock(t.Context(), lock.ID)
		}
		problem = err
	}
	cancel()
	<-ended
	return problem
}

// Servers forget scripts at any time; no caller notices.
func TestRedisScriptFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	require.NoError(t, forgotten(t, server, server.Client()))

	// A backend that does not send the text of a script that is not known.
	mutant := server.Client()
	var checked atomic.Int64
	mutant.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if cmd.Name() == "eval" && checked.Add(1) > 1 { // the first one is the check of rights
			return errors.New("NOSCRIPT No matching script")
		}
		return next(ctx, cmd)
	}))
	require.ErrorContains(t, forgotten(t, server, mutant), "NOSCRIPT")
}

// confirmedByNobody takes locks that have to be confirmed by replicas that are
// frozen, and answers what was acknowledged all the same.
func confirmedByNobody(t *testing.T, sentinel *redistest.Sentinel, client *redis.Client, repository string) error {
	t.Helper()
	config := enhanced.DefaultConfig()
	config.RedisMinReplicasAck = 1
	b := openRedis(t, client, config)
	if err := b.HealthCheck(t.Context()); err != nil {
		return err
	}
	for _, replica := range sentinel.Replicas {
		replica.Signal(redistest.Stop)
		defer replica.Signal(redistest.Continue)
	}
	for i := range 3 {
		lock, err := b.AcquireLock(t.Context(), by(repository, fmt.Sprint("p", i), "ann"))
		if err == nil {
			return fmt.Errorf("%s was acknowledged", lock.Resource)
		}
	}
	return nil
}

// WAIT on a connection that has not written is about nothing, and answers at
// once.
func TestRedisWaitsOnTheSameConnection(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.Options{})
	require.NoError(t, confirmedByNobody(t, sentinel, sentinel.Primary.Client(), "org/right"))

	mutant, other := sentinel.Primary.Client(), sentinel.Primary.Client()
	// Its connection has written once, which replicas have.
	require.NoError(t, other.Set(t.Context(), "test:before", "x", 0).Err())
	require.EqualValues(t, 2, other.Wait(t.Context(), 2, 30*time.Second).Val())
	mutant.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if wait, ok := cmd.(*redis.IntCmd); ok && cmd.Name() == "wait" && cmd.Args()[1] == 1 { // 0 is the check of rights
			wait.SetVal(other.Wait(ctx, 1, time.Second).Val())
			return nil
		}
		return next(ctx, cmd)
	}))
	require.ErrorContains(t, confirmedByNobody(t, sentinel, mutant, "org/mutant"), "acknowledged")
}
