package backends_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestRedisSuite(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openRedis(t, redistest.Start(t, redistest.Options{}).Client(), config)
	})
}

func TestRedisClusterSuite(t *testing.T) {
	t.Parallel()
	client := redistest.StartCluster(t, 3, 1, redistest.Options{}).Client()
	backendtest.RunShared(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.FlushAll(ctx).Err()
		}))
		return openRedis(t, client, config)
	})
}

func TestRedisSentinelSuite(t *testing.T) {
	t.Parallel()
	client := redistest.StartSentinel(t, redistest.Options{}).Client()
	backendtest.RunShared(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.FlushAll(t.Context()).Err())
		return openRedis(t, client, config)
	})
}

// openRedis makes a backend that is closed with the test.
func openRedis(tb testing.TB, client redis.UniversalClient, config *enhanced.EnhancedConfig) *backends.RedisBackend {
	tb.Helper()
	b := backends.NewRedisBackend(client, config, nil)
	tb.Cleanup(func() { require.NoError(tb, b.Close()) })
	return b
}
