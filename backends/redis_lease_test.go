package backends_test

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// A request without a lease gets RedisLockTTL on Redis, from the backend and through
// a manager, alone and in a set.
func TestRedisDefaultLease(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.Enabled, config.RedisLockTTL = true, 17*time.Minute
	b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), config)
	manager := enhanced.NewEnhancedLockManager(b, config, nil)
	ask := func(path string) *enhanced.EnhancedLockRequest {
		return &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", path, ""), Workspace: "default", User: models.User{Username: "alice"},
		}
	}
	locks := make([]*enhanced.EnhancedLock, 0, 4)
	for i, try := range []func(*enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error){
		func(r *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
			return b.TryAcquireLock(t.Context(), r)
		},
		func(r *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
			return manager.TryAcquire(t.Context(), r)
		},
	} {
		lock, acquired, err := try(ask([]string{"backend", "manager"}[i]))
		require.NoError(t, err)
		require.True(t, acquired)
		locks = append(locks, lock)
	}
	set, err := manager.LockAll(t.Context(), []*enhanced.EnhancedLockRequest{ask("one"), ask("two")})
	require.NoError(t, err)
	for _, lock := range append(locks, set...) {
		require.Equal(t, config.RedisLockTTL, lock.ExpiresAt.Sub(lock.AcquiredAt), lock.Resource)
	}
}
