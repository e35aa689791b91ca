package backends_test

import (
	"context"
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
