package backendtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// RunQueueDetached is the part of the suite for backends that keep places for
// those who do not wait: detached waiters, claims, reservations and tombstones.
func RunQueueDetached(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testDetached(t, newBackend)
	testClaims(t, newBackend)
	testReplan(t, newBackend)
	testPlace(t, newBackend)
	testClose(t, newBackend)
	testSetsOfRuns(t, newBackend)
	testSetsGiven(t, newBackend)
}

// queueAdapter is an adapter with the queue on.
func queueAdapter(t *testing.T, newBackend NewBackend, change func(*enhanced.EnhancedConfig)) (*enhanced.LockingAdapter, enhanced.Backend) {
	t.Helper()
	return newAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) {
		c.EnablePriorityQueue = true
		if change != nil {
			change(c)
		}
	})
}

// try is Atlantis' TryLock for a pull request.
func try(t *testing.T, a *enhanced.LockingAdapter, number int, path string) (bool, models.ProjectLock) {
	t.Helper()
	acquired, lock, err := a.TryLock(projectLock(host, repo, number, path))
	require.NoError(t, err)
	return acquired, lock
}

func requireGets(t *testing.T, a *enhanced.LockingAdapter, number int, path string) {
	t.Helper()
	acquired, lock := try(t, a, number, path)
	require.True(t, acquired, "pull request %d is refused by %d", number, lock.Pull.Num)
	require.Equal(t, number, lock.Pull.Num)
}

func requireRefused(t *testing.T, a *enhanced.LockingAdapter, number int, path string, holder int) {
	t.Helper()
	acquired, lock := try(t, a, number, path)
	require.False(t, acquired)
	require.Equal(t, holder, lock.Pull.Num)
}

func unlock(t *testing.T, a *enhanced.LockingAdapter, path string) {
	t.Helper()
	_, err := a.Unlock(models.NewProject(repo, path, ""), "default")
	require.NoError(t, err)
}

// giveBack is Atlantis' UnlockIfOwnedByPull.
func giveBack(t *testing.T, a *enhanced.LockingAdapter, number int, path string) {
	t.Helper()
	lock, err := a.UnlockIfOwnedByPull(models.NewProject(repo, path, ""), "default", number)
	require.NoError(t, err)
	require.NotNil(t, lock, "pull request %d does not hold %s", number, path)
	require.Equal(t, number, lock.Pull.Num)
}

// queueOf returns who waits, in order.
func queueOf(t *testing.T, b enhanced.Backend) (owners []string) {
	t.Helper()
	status, err := b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	for _, r := range status.PendingRequests {
		owners = append(owners, fmt.Sprint(r.Resource.Path, " ", r.Owner().Number))
	}
	return owners
}

func pullID(number int) string { return enhanced.PullOwner(host, repo, number).String() }

// requireClaimable checks that a resource is granted to a pull request that has
// not claimed it.
func requireClaimable(t *testing.T, b enhanced.Backend, path string, number int) *enhanced.EnhancedLock {
	t.Helper()
	lock, err := b.LookupLock(t.Context(), resource(path))
	require.NoError(t, err)
	require.Equal(t, pullID(number), lock.Owner)
	require.Equal(t, enhanced.LockStatePending, lock.State)
	require.NotNil(t, lock.ExpiresAt)
	return lock
}

func testDetached(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("who is refused has a place, once", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		for _, number := range []int{6, 7, 6, 7, 6} {
			requireRefused(t, a, number, ".", 5)
		}
		requireRefused(t, a, 5, ".", 5)
		require.Equal(t, []string{". 6", ". 7"}, queueOf(t, b))
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.True(t, status.PendingRequests[0].Detached)
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, stats.QueueDepth)
		requireVerified(t, b)

		unlock(t, a, ".")
		requireClaimable(t, b, ".", 6)
		requireRefused(t, a, 7, ".", 6)
		requireGets(t, a, 6, ".")
		requireRefused(t, a, 6, ".", 6)
		unlock(t, a, ".")
		requireGets(t, a, 7, ".")
		require.Empty(t, queueOf(t, b))
		unlock(t, a, ".")
		requireFree(t, b, resource("."))
		requireVerified(t, b)
	})

	t.Run("without a queue, and by a call that asks for none, nothing is left", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		require.Empty(t, queueOf(t, b))
		unlock(t, a, ".")
		requireFree(t, b, resource("."))

		a, b = queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		_, acquired, err := b.TryAcquireLock(t.Context(), pullRequest(6, "."))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Empty(t, queueOf(t, b))
	})

	t.Run("a full queue is no error", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.MaxQueueSize = 1 })
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		requireRefused(t, a, 7, ".", 5)
		require.Equal(t, []string{". 6"}, queueOf(t, b))
	})

	t.Run("DetachedQueueTimeout", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.DetachedQueueTimeout = 200 * time.Millisecond })
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		Eventually(t, "it waits no more", func() bool { return len(queueOf(t, b)) == 0 })
		_, err := b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		requireLogged(t, b, enhanced.EventQueueTimeout, pullID(6))
		unlock(t, a, ".")
		requireFree(t, b, resource("."))
		requireVerified(t, b)
	})

	t.Run("late when its turn comes", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.DetachedQueueTimeout = 50 * time.Millisecond })
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		Eventually(t, "it waits no more", func() bool { return len(queueOf(t, b)) == 0 })
		Eventually(t, "it is seen in another place", func() bool {
			requireRefused(t, a, 6, ".", 5)
			return slices.Equal([]string{". 6"}, queueOf(t, b))
		})
		Eventually(t, "it waits no more", func() bool { return len(queueOf(t, b)) == 0 })
		unlock(t, a, ".")
		requireFree(t, b, resource("."))
		requireVerified(t, b)
	})

	t.Run("it can be cancelled", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		require.NoError(t, b.CancelRequest(t.Context(), resource("."), pullID(6), "user:admin"))
		unlock(t, a, ".")
		requireFree(t, b, resource("."))
	})

	t.Run("a call that waits is given what its owner's place gets", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		requireRefused(t, a, 7, ".", 5)
		w := enqueue(t, b, pullRequest(6, "."))
		unlock(t, a, ".")
		lock := w.requireGranted(t)
		require.Equal(t, enhanced.LockStateAcquired, lock.State)
		require.Nil(t, lock.ExpiresAt)
		require.Equal(t, []string{". 7"}, queueOf(t, b))
		requireVerified(t, b)
	})
}

// requireLogged checks that the log has an event of a type about an owner.
func requireLogged(t *testing.T, b enhanced.Backend, kind, owner string) *enhanced.LogRecord {
	t.Helper()
	page, err := b.ReadLog(t.Context(), repo, 0, 10_000)
	require.NoError(t, err)
	for _, r := range page.Records {
		if r.Type == kind && r.Event().Owner == owner {
			return r
		}
	}
	t.Fatalf("the log has no %s of %s", kind, owner)
	return nil
}

func testClaims(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a claim is a lock from then on", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		unlock(t, a, ".")
		pending := requireClaimable(t, b, ".", 6)
		require.InDelta(t, float64(30*time.Minute), float64(pending.ExpiresAt.Sub(pending.AcquiredAt)), float64(time.Second))
		require.ErrorIs(t, b.RefreshLock(t.Context(), pending.ID, time.Hour), enhanced.ErrInvalidRequest)
		locks, err := a.List()
		require.NoError(t, err)
		require.Len(t, locks, 1, "whose it is, is seen in Atlantis")
		require.Equal(t, 6, locks[0].Pull.Num)

		later := projectLock(host, repo, 6, ".")
		later.Pull.HeadCommit = "0123456789"
		acquired, lock, err := a.TryLock(later)
		require.NoError(t, err)
		require.True(t, acquired)
		require.Equal(t, "0123456789", lock.Pull.HeadCommit)
		got, err := b.GetLock(t.Context(), pending.ID)
		require.NoError(t, err)
		require.Equal(t, pending.Version, got.Version)
		require.Equal(t, enhanced.LockStateAcquired, got.State)
		require.Nil(t, got.ExpiresAt)
		require.Equal(t, "0123456789", got.OriginalLock.Pull.HeadCommit)
		record := requireLogged(t, b, enhanced.EventClaimed, pullID(6))
		require.Equal(t, pending.Version, record.Token)
		requireVerified(t, b)
		_, err = b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		requireHeldBy(t, b, resource("."), pullID(6))
		require.NoError(t, b.RefreshLock(t.Context(), leaseOf(t, b, "leased").ID, time.Hour))
	})

	t.Run("the request itself, sent again, claims what it got", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		r := withID(pullRequest(6, "."), "once")
		r.Detached, r.Timeout = true, time.Hour
		_, acquired, err := b.TryAcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.False(t, acquired)
		_, acquired, err = b.TryAcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, []string{". 6"}, queueOf(t, b))
		unlock(t, a, ".")
		for range 2 {
			lock, acquired, err := b.TryAcquireLock(t.Context(), r)
			require.NoError(t, err)
			require.True(t, acquired)
			require.Equal(t, enhanced.LockStateAcquired, lock.State)
			require.InDelta(t, float64(time.Hour), float64(lock.ExpiresAt.Sub(lock.AcquiredAt)), float64(time.Minute))
		}
		requireVerified(t, b)
	})

	t.Run("who does not claim in time is passed over", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.QueueClaimTimeout = 300 * time.Millisecond })
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		requireRefused(t, a, 7, ".", 5)
		unlock(t, a, ".")
		// What is given from now on may be claimed for long.
		require.NoError(t, b.UpdateConfiguration(queueConfig(nil)))
		pending := requireLogged(t, b, enhanced.EventGranted, pullID(6))
		Eventually(t, "the next one gets it", func() bool {
			_, err := b.CleanupExpiredLocks(t.Context())
			require.NoError(t, err)
			lock, err := b.LookupLock(t.Context(), resource("."))
			return err == nil && lock.Owner == pullID(7)
		})
		requireLogged(t, b, enhanced.EventClaimExpired, pullID(6))
		_, err := b.GetLock(t.Context(), pending.LockID)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		requireGets(t, a, 7, ".")
		requireRefused(t, a, 6, ".", 7)
		require.Equal(t, []string{". 6"}, queueOf(t, b), "it is the last one now")
		requireVerified(t, b)
	})

	t.Run("what is transferred needs no claim", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		unlock(t, a, ".")
		require.NoError(t, b.TransferLock(t.Context(), requireClaimable(t, b, ".", 6).ID, pullID(7)))
		lock, err := b.LookupLock(t.Context(), resource("."))
		require.NoError(t, err)
		require.Equal(t, enhanced.LockStateAcquired, lock.State)
		require.Nil(t, lock.ExpiresAt)
		requireVerified(t, b)
	})

	t.Run("claims and their end, at the same moment", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.QueueClaimTimeout = time.Millisecond })
		for round := range Rounds(1_000) {
			path := fmt.Sprint("p", round)
			requireGets(t, a, 5, path)
			requireRefused(t, a, 6, path, 5)
			requireRefused(t, a, 7, path, 5)
			unlock(t, a, path)
			got := make([]bool, 2)
			Together(2, func(i int) {
				acquired, _, err := a.TryLock(projectLock(host, repo, 6+i, path))
				assert.NoError(t, err)
				got[i] = acquired
			})
			require.False(t, got[0] && got[1], "both have it")
			if got[0] || got[1] {
				lock, err := b.LookupLock(t.Context(), resource(path))
				require.NoError(t, err)
				require.Equal(t, got[0], lock.Owner == pullID(6))
				require.Equal(t, enhanced.LockStateAcquired, lock.State)
			}
		}
		requireVerified(t, b)
	})
}

// leaseOf takes a lock with a lease.
func leaseOf(t *testing.T, b enhanced.Backend, path string) *enhanced.EnhancedLock {
	t.Helper()
	return acquire(t, b, leased(userRequest("holder", path), time.Minute))
}

func requireNoLock(t *testing.T, b enhanced.Backend, r enhanced.ResourceIdentifier) {
	t.Helper()
	_, err := b.LookupLock(t.Context(), r)
	require.True(t, errors.Is(err, enhanced.ErrLockNotFound), "%v", err)
}
