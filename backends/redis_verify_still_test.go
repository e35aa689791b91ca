package backends_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// What is forgotten while a repository is read in pieces is no damage of it, though no
// record of the log tells of that.
func TestRedisVerifyWhileEndingsAreForgotten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	other := openRedis(t, server.Client(), enhanced.DefaultConfig())
	client := server.Client()
	var pieces atomic.Int32
	pieces.Store(-1)
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if strings.HasPrefix(cmd.Name(), "eval") && pieces.Load() >= 0 && pieces.Add(1) == 2 {
			if _, err := other.CleanupExpiredLocks(ctx); err != nil {
				return err
			}
		}
		return next(ctx, cmd)
	}))
	e := endingsOn(t, client)
	e.end(t, 400) // more than one piece
	requireSound(t, e.RedisBackend)
	old := make(map[string]any)
	for field, value := range client.HGetAll(t.Context(), e.state).Val() {
		if _, token, found := strings.Cut(value, " "); found && field[0] == 'e' {
			old[field] = "5 " + token
		}
	}
	require.Len(t, old, 400)
	require.NoError(t, client.HSet(t.Context(), e.state, old).Err())
	pieces.Store(0)
	requireSound(t, e.RedisBackend)
	require.Less(t, len(e.fields(t, "e")), 400)
}

// A request that is cancelled on its way is remembered, which no record of the log tells
// of. A repair that is under way leaves it alone.
func TestRedisRepairWhileARequestIsCancelled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	lost, config := server.Client(), enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	lost.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if slices.Contains(cmd.Args(), any("lost")) && !slices.Contains(cmd.Args(), any(enhanced.EventCancelled)) {
			cmd.SetErr(io.ErrUnexpectedEOF)
			return io.ErrUnexpectedEOF
		}
		return next(ctx, cmd)
	}))
	other := openRedis(t, lost, config)
	client := server.Client()
	var cancelled atomic.Bool
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if slices.Contains(cmd.Args(), any("user:admin")) && !cancelled.Swap(true) {
			r := by("org/app", "other", "ann")
			r.ID, r.Metadata = "lost", map[string]string{"not": "common"}
			if _, err := other.AcquireLock(ctx, r); !errors.Is(err, enhanced.ErrOutcomeUnknown) {
				return fmt.Errorf("the request's outcome is known: %w", err)
			}
			if err := other.Close(); err != nil { // it has cleaned up by then
				return err
			}
		}
		return next(ctx, cmd)
	}))
	e := endingsOn(t, client)
	e.end(t, 6)
	require.NoError(t, client.HDel(t.Context(), e.state, "e4").Err())
	repaired, err := e.Repair(t.Context(), "user:admin", "a test")
	require.NoError(t, err)
	require.True(t, cancelled.Load())
	require.Len(t, repaired, 1, "%+v", repaired)
	require.Equal(t, enhanced.RuleEnding, repaired[0].Rule)
	require.Len(t, e.fields(t, "e"), 7)
	requireSound(t, e.RedisBackend)
}
