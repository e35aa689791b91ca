package backendtest

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func testReads(t *testing.T, newBackend NewBackend) {
	t.Run("an empty store", func(t *testing.T) {
		b := newBackend(t, nil)
		require.NoError(t, b.HealthCheck(t.Context()))
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Empty(t, locks)
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, &enhanced.BackendStats{HealthScore: 100}, stats)
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.Zero(t, status.Size)
		requireFree(t, b, resource("."))
	})

	t.Run("every read gives the same lock", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "envs/prod"))
		byID, err := b.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
		require.Equal(t, lock, byID)
		byResource, err := b.LookupLock(t.Context(), lock.Resource)
		require.NoError(t, err)
		require.Equal(t, lock, byResource)
		listed, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Equal(t, []*enhanced.EnhancedLock{lock}, listed)
	})

	t.Run("a list is ordered", func(t *testing.T) {
		b := newBackend(t, nil)
		for _, repository := range []string{"org/b", "org/a", "org/c"} {
			for _, path := range []string{"z", "a", "m"} {
				acquire(t, b, pullRequestOf(host, repository, 1, path))
			}
		}
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		var order []string
		for _, lock := range locks {
			order = append(order, lock.Resource.Namespace+" "+lock.Resource.Path)
		}
		require.Equal(t, []string{
			"org/a a", "org/a m", "org/a z", "org/b a", "org/b m", "org/b z", "org/c a", "org/c m", "org/c z",
		}, order)
	})

	t.Run("by stock's key", func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.PreserveLegacyFormat = false
		b := newBackend(t, config)
		// One key of stock's, several projects.
		one := acquire(t, b, pullRequestOf(host, "a/b", 1, "c/d"))
		two := acquire(t, b, pullRequestOf(host, "a/b/c", 2, "d"))
		acquire(t, b, pullRequestOf(host, "a/b", 3, "c"))
		require.Equal(t, one.Resource.LegacyKey(), two.Resource.LegacyKey())
		locks, err := b.LocksByLegacyKey(t.Context(), one.Resource.LegacyKey())
		require.NoError(t, err)
		require.ElementsMatch(t, []*enhanced.EnhancedLock{one, two}, locks)
		locks, err = b.LocksByLegacyKey(t.Context(), "a/b/c/d/other/")
		require.NoError(t, err)
		require.Empty(t, locks)
	})

	t.Run("an updated configuration counts", func(t *testing.T) {
		b := newBackend(t, nil)
		bad := enhanced.DefaultConfig()
		bad.MaxQueueSize = -1
		require.ErrorIs(t, b.UpdateConfiguration(bad), enhanced.ErrInvalidRequest)
		require.ErrorIs(t, b.UpdateConfiguration(nil), enhanced.ErrInvalidRequest)
		good := enhanced.DefaultConfig()
		good.MaxTimeout, good.DefaultTimeout, good.RedisLockTTL = 2*shortLease, shortLease, shortLease
		require.NoError(t, b.UpdateConfiguration(good))
		lock := acquire(t, b, leased(pullRequest(1, "."), 0))
		require.Equal(t, shortLease, lock.ExpiresAt.Sub(lock.AcquiredAt))
		_, err := b.AcquireLock(t.Context(), leased(pullRequest(1, "a"), 3*shortLease))
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	})
}
