package backends_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestRedisQueue(t *testing.T) {
	t.Parallel()
	backendtest.RunQueue(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openRedis(t, redistest.Start(t, redistest.Options{}).Client(), config)
	})
}

func TestRedisClusterQueue(t *testing.T) {
	t.Parallel()
	client := redistest.StartCluster(t, 3, 1, redistest.Options{}).Client()
	backendtest.RunQueue(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.FlushAll(ctx).Err()
		}))
		return openRedis(t, client, config)
	})
}
