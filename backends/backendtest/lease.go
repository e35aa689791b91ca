package backendtest

import (
	"errors"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// shortLease is long enough to be seen held and short enough to wait for.
const shortLease = 50 * time.Millisecond

func leased(request *enhanced.EnhancedLockRequest, lease time.Duration) *enhanced.EnhancedLockRequest {
	request.Timeout = lease
	return request
}

// awaitEnd waits until a lock's lease has ended by looking, without anything
// that would settle it.
func awaitEnd(t *testing.T, b enhanced.Backend, lock *enhanced.EnhancedLock) {
	t.Helper()
	Eventually(t, "the lease of "+lock.Owner+" ends", func() bool {
		_, err := b.LookupLock(t.Context(), lock.Resource)
		return errors.Is(err, enhanced.ErrLockNotFound)
	})
}

// endSoon has a long lease, under which a case has got ready without haste, end in a
// moment. It returns the lock with its new end.
func endSoon(t *testing.T, b enhanced.Backend, lock *enhanced.EnhancedLock) *enhanced.EnhancedLock {
	t.Helper()
	require.NoError(t, b.RefreshLock(t.Context(), lock.ID, shortLease))
	ending := *lock
	ending.ExpiresAt = requireLogged(t, b, enhanced.EventRefreshed, lock.Owner).After.ExpiresAt
	return &ending
}

func testLeases(t *testing.T, newBackend NewBackend) {
	t.Run("a lease ends for everyone and for good", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, leased(pullRequest(5, "."), shortLease))
		require.WithinDuration(t, lock.AcquiredAt.Add(shortLease), *lock.ExpiresAt, time.Millisecond)
		awaitEnd(t, b, lock)

		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Empty(t, locks)
		_, err = b.GetLock(t.Context(), lock.ID)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		require.ErrorIs(t, b.RefreshLock(t.Context(), lock.ID, time.Minute), enhanced.ErrLockExpired)
		requireFree(t, b, resource("."))

		next := acquire(t, b, pullRequest(6, "."))
		require.Greater(t, next.Version, lock.Version)
		require.Error(t, b.ReleaseLock(t.Context(), lock.ID))
		requireHeldBy(t, b, resource("."), next.Owner)
	})

	t.Run("the owner takes it again after its end", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, leased(pullRequest(5, "."), shortLease))
		awaitEnd(t, b, lock)
		require.NotEqual(t, lock.ID, acquire(t, b, pullRequest(5, ".")).ID)
	})

	t.Run("no lease is never one", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		require.Nil(t, lock.ExpiresAt)
		err := b.RefreshLock(t.Context(), lock.ID, time.Minute)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		_, found, err := b.NextDeadline(t.Context())
		require.NoError(t, err)
		require.False(t, found)
		ended, err := b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		require.Zero(t, ended)
		requireHeldBy(t, b, resource("."), lock.Owner)
	})

	t.Run("zero is the default lease", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, leased(pullRequest(5, "."), 0))
		require.NotNil(t, lock.ExpiresAt)
		require.GreaterOrEqual(t, lock.ExpiresAt.Sub(lock.AcquiredAt), 30*time.Minute)
	})

	t.Run("refresh moves the end", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, leased(pullRequest(5, "."), 10*time.Minute))
		require.NoError(t, b.RefreshLock(t.Context(), lock.ID, time.Hour))
		fresh, err := b.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(time.Hour), *fresh.ExpiresAt, time.Minute)
		require.Equal(t, lock.Version, fresh.Version)
		next, found, err := b.NextDeadline(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.Greater(t, next, 59*time.Minute, "the old deadline is gone")

		for _, bad := range []time.Duration{0, -time.Second, time.Microsecond, 3 * time.Hour} {
			require.ErrorIs(t, b.RefreshLock(t.Context(), lock.ID, bad), enhanced.ErrInvalidRequest, bad)
		}
	})

	t.Run("clean-up ends what is due and nothing else", func(t *testing.T) {
		b := newBackend(t, nil)
		var last *enhanced.EnhancedLock
		for i := range 30 {
			last = acquire(t, b, leased(pullRequestOf(host, "org/r"+itoa(i%3), i, "due"+itoa(i)), shortLease))
		}
		acquire(t, b, leased(pullRequest(1, "later"), time.Hour))
		acquire(t, b, pullRequest(2, "never"))
		awaitEnd(t, b, last)
		ended, err := b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		require.Equal(t, 30, ended)
		ended, err = b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		require.Zero(t, ended)
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, stats.ActiveLocks)
		require.EqualValues(t, 30, stats.Expirations)
	})
}

func testTransfer(t *testing.T, newBackend NewBackend) {
	t.Run("a lock changes hands", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, leased(pullRequest(5, "."), time.Hour))
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, "user:alice"))
		now, err := b.LookupLock(t.Context(), resource("."))
		require.NoError(t, err)
		require.Equal(t, "user:alice", now.Owner)
		require.Greater(t, now.Version, lock.Version)
		require.Equal(t, lock.ExpiresAt, now.ExpiresAt, "the lease goes on")
		require.Equal(t, "alice", now.OriginalLock.User.Username)
		require.Zero(t, now.OriginalLock.Pull.Num)
		require.ErrorIs(t, b.ReleaseLock(t.Context(), lock.ID), enhanced.ErrLockNotFound)

		require.NoError(t, b.TransferLock(t.Context(), now.ID, "pr:github.com/org%2Fapp/7"))
		now, err = b.LookupLock(t.Context(), resource("."))
		require.NoError(t, err)
		require.Equal(t, 7, now.OriginalLock.Pull.Num)
		released, err := b.ReleaseByPull(t.Context(), repo, 7, enhanced.SystemAtlantis)
		require.NoError(t, err)
		require.Len(t, released, 1)
	})

	t.Run("to the owner it has changes nothing", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, lock.Owner))
		same, err := b.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
		require.Equal(t, lock, same)
	})

	t.Run("owners that cannot hold it", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		for _, owner := range []string{"", "alice", "user:", "pr:github.com/org/app/7", "system:atlantis", "pr:github.com/org%2Fother/7"} {
			require.ErrorIs(t, b.TransferLock(t.Context(), lock.ID, owner), enhanced.ErrInvalidRequest, owner)
		}
		requireHeldBy(t, b, resource("."), lock.Owner)
	})
}
