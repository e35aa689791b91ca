package backends_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// fill leaves a server without memory to give until the test lets it go.
func fillMemory(t *testing.T, client *redis.Client) (letGo func()) {
	t.Helper()
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	return func() { require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "0").Err()) }
}

// Without memory to give, a server grants nothing; it still releases, extends
// and ends leases.
func TestRedisOutOfMemory(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	held, err := b.AcquireLock(ctx, by("org/app", "held", "ann"))
	require.NoError(t, err)
	take := func(path string, timeout time.Duration) *enhanced.EnhancedLock {
		r := by("org/app", path, "ann")
		r.Timeout = timeout
		lock, err := b.AcquireLock(ctx, r)
		require.NoError(t, err)
		return lock
	}
	lease, short := take("leased", time.Hour), take("short", time.Millisecond)
	awaitEnds(t, b, short.Resource)
	letGo := fillMemory(t, client)

	for _, repository := range []string{"org/app", "org/new"} {
		_, err = b.AcquireLock(ctx, by(repository, "free", "ann"))
		require.ErrorIs(t, err, enhanced.ErrBackend)
		require.ErrorContains(t, err, "OOM")
		require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	}
	ended, err := b.CleanupExpiredLocks(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.ErrorIs(t, b.RefreshLock(ctx, short.ID, time.Hour), enhanced.ErrLockExpired)
	require.NoError(t, b.RefreshLock(ctx, lease.ID, 2*time.Hour))
	require.NoError(t, b.ReleaseLock(ctx, held.ID))
	released, err := b.Release(ctx, enhanced.ReleaseRequest{Resource: lease.Resource, Owner: lease.Owner})
	require.NoError(t, err)
	require.Equal(t, lease.ID, released.ID)
	// Another process can start.
	require.NoError(t, openRedis(t, client, nil).HealthCheck(ctx))

	letGo()
	_, err = b.AcquireLock(ctx, by("org/app", "free", "ann"))
	require.NoError(t, err)
	violations, err := b.Verify(ctx)
	require.NoError(t, err)
	require.Empty(t, violations)
}

// What stock has and what conflicts with stock is released as well.
func TestRedisOutOfMemoryBesideStock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := share(t, mirroring())
	mine, conflicting := stockLock("org/app", 5, "mine"), stockLock("org/app", 5, "conflict")
	s.oursTakes(t, conflicting)
	require.NoError(t, s.client.Set(ctx, "pr/org/app/conflict/default/", stockText(t, stockLock("org/app", 6, "conflict")), 0).Err())
	s.stockTakes(t, mine)
	letGo := fillMemory(t, s.client)
	locks, err := s.ours.ListLocks(ctx)
	require.NoError(t, err)
	require.Len(t, locks, 2)
	released, err := s.ours.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, 2)
	letGo()
	holder, acquired, err := s.ours.TryAcquireLock(ctx, request(stockLock("org/app", 7, "conflict")))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, "pr:github.com/org%2Fapp/6", holder.Owner)
	s.oursTakes(t, stockLock("org/app", 7, "mine"))
}

// More locks than fit into one step are released, too.
func TestRedisOutOfMemoryWithManyLocks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	const many = 501
	for i := range many {
		_, err := b.AcquireLock(ctx, request(stockLock("org/app", 5, fmt.Sprint("p", i))))
		require.NoError(t, err)
	}
	letGo := fillMemory(t, client)
	released, err := b.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, many)
	letGo()
	_, err = b.AcquireLock(ctx, request(stockLock("org/app", 5, "again")))
	require.NoError(t, err, "the mark that all of its locks are being released is gone")
}
