package backends_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestBoltSets(t *testing.T) {
	t.Parallel()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	}
	backendtest.RunSets(t, newBackend)
	backendtest.RunSetsQueue(t, newBackend)
}

func TestRedisSets(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.FlushAll(t.Context()).Err())
		return openRedis(t, client, config)
	}
	backendtest.RunSets(t, newBackend)
	backendtest.RunSetsQueue(t, newBackend)
}

func TestRedisClusterSets(t *testing.T) {
	t.Parallel()
	client := redistest.StartCluster(t, 3, 0, redistest.Options{}).Client()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.FlushAll(ctx).Err()
		}))
		return openRedis(t, client, config)
	}
	backendtest.RunSets(t, newBackend)
	backendtest.RunSetsQueue(t, newBackend)
}
