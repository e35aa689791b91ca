package backendtest

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// longDelay is an UncleanReleaseDelay that no test waits for, shortDelay one that
// tests do.
const (
	longDelay  = time.Hour
	shortDelay = 150 * time.Millisecond
)

func delayed(delay time.Duration) *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.UncleanReleaseDelay = delay
	return config
}

// lapsed returns the lock of a request whose lease has ended since, which nobody
// but readers has noticed yet.
func lapsed(t *testing.T, b enhanced.Backend, request *enhanced.EnhancedLockRequest) *enhanced.EnhancedLock {
	t.Helper()
	lock := acquire(t, b, leased(request, shortLease))
	awaitEnd(t, b, lock)
	return lock
}

// requireReservedFor checks that a request is refused because of the lapse of a lock,
// and until when.
func requireReservedFor(t *testing.T, b enhanced.Backend, request *enhanced.EnhancedLockRequest, lock *enhanced.EnhancedLock, delay time.Duration) {
	t.Helper()
	holder, acquired, err := b.TryAcquireLock(t.Context(), request)
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, lock.Owner, holder.Owner)
	require.Empty(t, holder.ID, "it is no lock any more")
	require.Equal(t, enhanced.LockStatePending, holder.State)
	require.NotNil(t, holder.ExpiresAt)
	require.Equal(t, lock.ExpiresAt.Add(delay), *holder.ExpiresAt)
}

// requireLapseForeseen checks what a manager says of a lapse, with the queue off: who
// can take the lock, and what keeps the others from it, until when.
func requireLapseForeseen(t *testing.T, b enhanced.Backend, own *enhanced.EnhancedLockRequest, lock *enhanced.EnhancedLock) {
	t.Helper()
	m := enhanced.NewEnhancedLockManager(b, delayed(longDelay), nil)
	foreseen := m.Foresee(t.Context(), []*enhanced.EnhancedLockRequest{userRequest("bob", "."), own})
	require.False(t, foreseen[0].Acquired)
	require.Equal(t, enhanced.BlockedByDelay, foreseen[0].Kind)
	require.ErrorContains(t, enhanced.NewHeldError(lock.Resource, foreseen[0].Lock), "since its lease ended without a release")
	require.True(t, foreseen[1].Acquired)
	place, err := m.FindPlace(t.Context(), lock.Resource.Project(), lock.Resource.Workspace, enhanced.UserOwner("bob"))
	require.NoError(t, err)
	until := lock.ExpiresAt.Add(longDelay)
	require.Equal(t, &enhanced.Blocker{Kind: enhanced.BlockedByDelay, Owner: lock.Owner, Until: &until}, place.Blocker)
}

// requireAfter checks that a lock was granted after the delay of another's lapse, by
// the store's clock.
func requireAfter(t *testing.T, lock, before *enhanced.EnhancedLock, delay time.Duration) {
	t.Helper()
	require.False(t, lock.AcquiredAt.Before(before.ExpiresAt.Add(delay)),
		"granted at %v, the lease before ended at %v", lock.AcquiredAt, before.ExpiresAt)
	require.Greater(t, lock.Version, before.Version)
}

// testLapses is about UncleanReleaseDelay.
func testLapses(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testLapseCloses(t, newBackend)
	testLapseEnds(t, newBackend)
	testLapseOfPull(t, newBackend)
	testCleanEnds(t, newBackend)
}

func testLapseCloses(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("closed to others, open to its last owner", func(t *testing.T) {
		b := newBackend(t, delayed(longDelay))
		for _, asks := range []func(path string) *enhanced.EnhancedLockRequest{ofUser("ann"), ofPull(5)} {
			lock := lapsed(t, b, asks("."))
			requireVerified(t, b)
			before, err := b.ReadLog(t.Context(), repo, 0, 100)
			require.NoError(t, err)
			requireLapseForeseen(t, b, asks("."), lock)
			after, err := b.ReadLog(t.Context(), repo, 0, 100)
			require.NoError(t, err)
			require.Len(t, after.Records, len(before.Records), "to look settles nothing")
			requireReservedFor(t, b, userRequest("bob", "."), lock, longDelay)
			requireReservedFor(t, b, pullRequest(6, "."), lock, longDelay)
			_, err = b.AcquireLock(t.Context(), userRequest("bob", "."))
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			require.ErrorContains(t, err, "is reserved for "+enhanced.DescribeOwner(lock.Owner)+" until "+
				lock.ExpiresAt.Add(longDelay).Format(time.RFC3339Nano))
			_, err = sets(b).AcquireAll(t.Context(), setOf(ofUser("bob"), "free", "."), false)
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			requireVerified(t, b)
			requireLapseForeseen(t, b, asks("."), lock)

			requireNoLock(t, b, resource("."))
			locks, err := b.ListLocks(t.Context())
			require.NoError(t, err)
			require.Empty(t, locks)
			_, err = b.GetLock(t.Context(), lock.ID)
			require.ErrorIs(t, err, enhanced.ErrLockExpired)
			require.ErrorIs(t, b.RefreshLock(t.Context(), lock.ID, time.Minute), enhanced.ErrLockExpired)
			require.ErrorIs(t, b.ReleaseLock(t.Context(), lock.ID), enhanced.ErrLockExpired)
			require.Equal(t, enhanced.ReasonUncleanRelease, requireLogged(t, b, enhanced.EventTimeout, lock.Owner).Reason)

			again := acquire(t, b, asks("."))
			require.Greater(t, again.Version, lock.Version)
			requireVerified(t, b)
			require.NoError(t, b.ReleaseLock(t.Context(), again.ID))
			next := acquire(t, b, userRequest("bob", "."))
			require.NoError(t, b.ReleaseLock(t.Context(), next.ID))
			requireVerified(t, b)
		}
	})

	t.Run("clean-up ends the lease, and announces the end of the delay", func(t *testing.T) {
		b := newBackend(t, delayed(longDelay))
		lock := lapsed(t, b, userRequest("ann", "."))
		for _, want := range []int{1, 0} {
			ended, err := b.CleanupExpiredLocks(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, ended)
		}
		wait, found, err := b.NextDeadline(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.LessOrEqual(t, wait, longDelay)
		require.Greater(t, wait, longDelay-2*patience)
		requireVerified(t, b)
		requireReservedFor(t, b, userRequest("bob", "."), lock, longDelay)

		owned := lockSet(t, b, setOf(ofUser("ann"), ".", "other"))
		require.Len(t, owned, 2, "its owner takes it with a set, too")
		requireVerified(t, b)
	})
}

func testLapseEnds(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("open to all at the end", func(t *testing.T) {
		b := newBackend(t, delayed(shortDelay))
		lock := lapsed(t, b, userRequest("ann", "."))
		var next *enhanced.EnhancedLock
		Eventually(t, "bob gets it", func() bool {
			lock, acquired, err := b.TryAcquireLock(t.Context(), userRequest("bob", "."))
			require.NoError(t, err)
			next = lock
			return acquired
		})
		requireAfter(t, next, lock, shortDelay)
		requireVerified(t, b)
	})

	t.Run("an end that nobody noticed is over", func(t *testing.T) {
		config := delayed(time.Millisecond)
		b := newBackend(t, config)
		lock := lapsed(t, b, userRequest("ann", "."))
		Eventually(t, "the delay is over", func() bool { return time.Since(*lock.ExpiresAt) > 50*time.Millisecond })
		m := enhanced.NewEnhancedLockManager(b, config, nil)
		require.True(t, m.Foresee(t.Context(), []*enhanced.EnhancedLockRequest{userRequest("bob", ".")})[0].Acquired)
		requireAfter(t, acquire(t, b, userRequest("bob", ".")), lock, time.Millisecond)
		require.Empty(t, requireLogged(t, b, enhanced.EventTimeout, lock.Owner).Reason)
		requireVerified(t, b)
	})

	t.Run("the first one in the queue gets it at the end", func(t *testing.T) {
		const delay = 5 * shortDelay // somebody is to look meanwhile
		config := queueConfig(func(c *enhanced.EnhancedConfig) { c.UncleanReleaseDelay = delay })
		b := newBackend(t, config)
		lock := acquire(t, b, leased(userRequest("ann", "."), 3*time.Second))
		first := enqueue(t, b, userRequest("bob", "."))
		second := enqueue(t, b, userRequest("cid", "."))
		next := first.requireGranted(t)
		requireAfter(t, next, lock, delay)
		second.requireWaits(t)
		record := requireLogged(t, b, enhanced.EventReservationEnded, lock.Owner)
		require.False(t, record.Time.Before(lock.ExpiresAt.Add(delay)))
		require.Equal(t, enhanced.CauseExpired, record.Cause)
		requireVerified(t, b)
		require.NoError(t, b.ReleaseLock(t.Context(), next.ID))
		second.requireGranted(t)
	})

	t.Run("a manager hands it over where no call waits", func(t *testing.T) {
		var config *enhanced.EnhancedConfig
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) {
			c.UncleanReleaseDelay = shortDelay
			config = c
		})
		lock := acquire(t, b, leased(pullRequest(5, "."), time.Hour))
		requireRefused(t, a, 6, ".", 5)
		lock = endSoon(t, b, lock)
		manager := enhanced.NewEnhancedLockManager(b, config, nil)
		require.NoError(t, manager.Start(t.Context()))
		defer func() { require.NoError(t, manager.Stop(t.Context())) }()
		Eventually(t, "the next one is given it", func() bool {
			next, err := b.LookupLock(t.Context(), resource("."))
			return err == nil && next.Owner == pullID(6)
		})
		requireAfter(t, requireClaimable(t, b, ".", 6), lock, shortDelay)
		requireVerified(t, b)
	})
}

func testLapseOfPull(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("nothing that ends a new plan shortens it", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) {
			c.UncleanReleaseDelay, c.ReplanWindow = longDelay, time.Nanosecond
		})
		lock := lapsed(t, b, pullRequest(5, "."))
		requireReservedFor(t, b, userRequest("bob", "."), lock, longDelay)
		requireRefused(t, a, 6, ".", 5) // it has a place

		requireGets(t, a, 5, "other") // asks for another lock, plans it again, and ends its run
		requireRefused(t, a, 6, "other", 5)
		giveBack(t, a, 5, "other")
		kept, err := a.UnlockIfOwnedByPull(projectLock(host, repo, 5, ".").Project, "default", 5)
		require.NoError(t, err)
		require.Nil(t, kept)
		endRun(t, a, 5)
		_, err = sets(b).ReplaceAll(t.Context(), repo, enhanced.PullOwner(host, repo, 5), nil)
		require.NoError(t, err)
		requireVerified(t, b)
		requireReservedFor(t, b, userRequest("bob", "."), lock, longDelay)

		_, err = a.UnlockByPull(repo, 5)
		require.NoError(t, err)
		require.NoError(t, a.DeletePullStatus(pull(host, repo, 5)))
		requireVerified(t, b)
		requireReservedFor(t, b, userRequest("bob", "."), lock, longDelay)

		off := enhanced.DefaultConfig()
		off.Enabled = true
		require.NoError(t, a.UpdateConfiguration(off))
		requireReservedFor(t, b, userRequest("bob", "."), lock, longDelay)
		requireVerified(t, b)
	})

	t.Run("a forced release ends it, with hand-over", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.UncleanReleaseDelay = longDelay })
		lock := lapsed(t, b, pullRequest(5, "."))
		requireRefused(t, a, 6, ".", 5)
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Owner: lock.Owner})
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		released, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Force: true, Actor: "user:admin"})
		require.NoError(t, err)
		require.Equal(t, lock.Owner, released.Owner)
		require.Empty(t, released.ID)
		requireClaimable(t, b, ".", 6)
		require.Equal(t, enhanced.CauseForced, requireLogged(t, b, enhanced.EventReservationEnded, lock.Owner).Cause)
		requireVerified(t, b)
	})
}

func testCleanEnds(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("other ends leave no delay", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) {
			c.UncleanReleaseDelay, c.QueueClaimTimeout = longDelay, shortLease
		})
		for path, end := range map[string]func(lock *enhanced.EnhancedLock) error{
			"released": func(lock *enhanced.EnhancedLock) error { return b.ReleaseLock(t.Context(), lock.ID) },
			"forced": func(lock *enhanced.EnhancedLock) error {
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Force: true, Actor: "user:admin"})
				return err
			},
			"closed": func(*enhanced.EnhancedLock) error {
				_, err := a.UnlockByPull(repo, 5)
				return err
			},
		} {
			lock := acquire(t, b, leased(pullRequest(5, path), longDelay))
			require.NoError(t, end(lock), path)
			acquire(t, b, userRequest("bob", path))
		}
		lock := acquire(t, b, leased(pullRequest(5, "given"), longDelay))
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, "user:bob"))
		requireHeldBy(t, b, resource("given"), "user:bob")

		// Nobody has begun with what was not claimed.
		requireGets(t, a, 7, ".")
		requireRefused(t, a, 8, ".", 7)
		unlock(t, a, ".")
		Eventually(t, "the next one gets it", func() bool {
			acquired, _ := try(t, a, 9, ".")
			return acquired
		})
		require.Empty(t, requireLogged(t, b, enhanced.EventClaimExpired, pullID(8)).Reason)
		requireVerified(t, b)
	})
}
