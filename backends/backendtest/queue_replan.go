package backendtest

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/stretchr/testify/require"
)

// endRun is what Atlantis calls at the end of a run.
func endRun(t *testing.T, a *enhanced.LockingAdapter, number int) {
	t.Helper()
	_, err := a.UpdatePullWithResults(pull(host, repo, number), []command.ProjectResult{})
	require.NoError(t, err)
}

func testReplan(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a lock that others wait for is kept for who plans again", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "one")
		requireGets(t, a, 5, "two")
		requireRefused(t, a, 6, "one", 5)
		requireRefused(t, a, 6, "two", 5)
		giveBack(t, a, 5, "one")
		giveBack(t, a, 5, "two")
		for _, path := range []string{"one", "two"} {
			requireNoLock(t, b, resource(path))
		}
		locks, err := a.List()
		require.NoError(t, err)
		require.Empty(t, locks)
		requireVerified(t, b)
		requireLogged(t, b, enhanced.EventReserved, pullID(5))
		// Not for the next one, nor for anybody else, nor for a call that waits.
		requireRefused(t, a, 6, "one", 5)
		requireRefused(t, a, 7, "one", 5)
		w := enqueue(t, b, userRequest("ann", "one"))
		w.requireWaits(t)
		requireGets(t, a, 5, "one")
		// The other one was not planned again: it goes on at the end of the run.
		requireNoLock(t, b, resource("two"))
		endRun(t, a, 5)
		requireClaimable(t, b, "two", 6)
		requireHeldBy(t, b, resource("one"), pullID(5))
		requireLogged(t, b, enhanced.EventReservationEnded, pullID(5))
		requireRefused(t, a, 5, "two", 6)
		requireVerified(t, b)
	})

	t.Run("a lock that nobody waits for is given back", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		giveBack(t, a, 5, ".")
		requireGets(t, a, 6, ".")
		lock, err := a.UnlockIfOwnedByPull(projectLock(host, repo, 5, ".").Project, "default", 5)
		require.NoError(t, err)
		require.Nil(t, lock)
		requireVerified(t, b)
	})

	t.Run("what is granted and not claimed is kept, too", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		unlock(t, a, ".")
		requireClaimable(t, b, ".", 6)
		giveBack(t, a, 6, ".") // it plans again, which claims it
		requireRefused(t, a, 7, ".", 6)
		requireGets(t, a, 6, ".")
		requireVerified(t, b)
	})

	t.Run("a forced release ends a reservation", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Owner: pullID(5)})
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		lock, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Force: true, Actor: "user:admin", Reason: "it hangs"})
		require.NoError(t, err)
		require.Equal(t, pullID(5), lock.Owner)
		require.Equal(t, enhanced.LockStateReleased, lock.State)
		require.Empty(t, lock.ID, "it was no lock any more")
		requireClaimable(t, b, ".", 6)
		requireRefused(t, a, 5, ".", 6)
		record := requireLogged(t, b, enhanced.EventReservationEnded, pullID(5))
		require.Equal(t, "user:admin", record.Actor)
		require.Equal(t, enhanced.CauseForced, record.Cause)
		require.Equal(t, "it hangs", record.Reason)
		requireVerified(t, b)
	})

	t.Run("a release of a reservation frees no lock", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		request := enhanced.ReleaseRequest{Resource: resource("."), Force: true, Reservation: true, Actor: "user:admin"}
		for range 2 {
			_, err := b.Release(t.Context(), request)
			require.ErrorIs(t, err, enhanced.ErrLockNotFound)
			requireRefused(t, a, 6, ".", 5)
		}
		giveBack(t, a, 5, ".")
		lock, err := b.Release(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, pullID(5), lock.Owner)
		require.Empty(t, lock.ID)
		_, err = b.Release(t.Context(), request)
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		requireClaimable(t, b, ".", 6)
		for name, wrong := range map[string]enhanced.ReleaseRequest{
			"without force":  {Resource: resource("."), Owner: pullID(6), Reservation: true},
			"with a lock ID": {LockID: "x", Resource: resource("."), Force: true, Reservation: true},
		} {
			_, err = b.Release(t.Context(), wrong)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
		}
		requireVerified(t, b)
	})

	t.Run("a plan that fails lets the lock go at its end", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		requireGets(t, a, 5, ".")
		giveBack(t, a, 5, ".")
		requireNoLock(t, b, resource("."))
		endRun(t, a, 5)
		requireClaimable(t, b, ".", 6)
		requireVerified(t, b)
	})

	t.Run("ReplanWindow", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.ReplanWindow = 300 * time.Millisecond })
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		wait, found, err := b.NextDeadline(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.LessOrEqual(t, wait, 300*time.Millisecond)
		Eventually(t, "the next one gets it", func() bool {
			_, err := b.CleanupExpiredLocks(t.Context())
			require.NoError(t, err)
			lock, err := b.LookupLock(t.Context(), resource("."))
			return err == nil && lock.Owner == pullID(6)
		})
		requireLogged(t, b, enhanced.EventReservationEnded, pullID(5))
		requireVerified(t, b)
	})

	t.Run("over when somebody else asks", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.ReplanWindow = time.Millisecond })
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		Eventually(t, "it is over", func() bool {
			acquired, _ := try(t, a, 6, ".")
			return acquired
		})
		requireVerified(t, b)
	})

	t.Run("without a queue it is given back at once", func(t *testing.T) {
		a, _ := newAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		requireGets(t, a, 6, ".")
	})

	t.Run("what was kept is free when the queue is switched off", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		off := enhanced.DefaultConfig()
		off.Enabled = true
		require.NoError(t, a.UpdateConfiguration(off))
		requireGets(t, a, 7, ".")
		require.Empty(t, queueOf(t, b))
		requireVerified(t, b)
	})
}

func testClose(t *testing.T, newBackend NewBackend) {
	t.Helper()
	closePull := func(t *testing.T, a *enhanced.LockingAdapter, number int) {
		t.Helper()
		_, err := a.UnlockByPull(repo, number)
		require.NoError(t, err)
		require.NoError(t, a.DeletePullStatus(pull(host, repo, number)))
	}
	requireClosed := func(t *testing.T, a *enhanced.LockingAdapter, number int, path string) {
		t.Helper()
		acquired, _, err := a.TryLock(projectLock(host, repo, number, path))
		require.False(t, acquired)
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		require.ErrorContains(t, err, "was closed while this ran")
	}

	t.Run("closing hands over all, and leaves no place", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "held")
		requireGets(t, a, 5, "kept")
		requireGets(t, a, 8, "other")
		requireRefused(t, a, 6, "held", 5)
		requireRefused(t, a, 6, "kept", 5)
		requireRefused(t, a, 5, "other", 8)
		giveBack(t, a, 5, "kept")
		locks, err := a.UnlockByPull(repo, 5)
		require.NoError(t, err)
		require.Len(t, locks, 1)
		requireClaimable(t, b, "held", 6)
		requireClaimable(t, b, "kept", 6)
		require.Empty(t, queueOf(t, b))
		unlock(t, a, "other")
		requireNoLock(t, b, resource("other"))
		requireVerified(t, b)
	})

	t.Run("a run that still goes on takes nothing", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "one")
		requireGets(t, a, 8, "other")
		closePull(t, a, 5)
		requireClosed(t, a, 5, "one")
		requireClosed(t, a, 5, "other")
		require.Empty(t, queueOf(t, b))
		requireNoLock(t, b, resource("one"))
		requireVerified(t, b)
		requireGets(t, a, 55, "two")
		endRun(t, a, 5)
		requireGets(t, a, 5, "one")
		requireVerified(t, b)
	})

	t.Run("what it takes while it is being closed", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "one")
		requireGets(t, a, 8, "other")
		_, err := a.UnlockByPull(repo, 5)
		require.NoError(t, err)
		requireGets(t, a, 5, "two")
		requireRefused(t, a, 5, "other", 8)
		require.NoError(t, a.DeletePullStatus(pull(host, repo, 5)))
		requireNoLock(t, b, resource("two"))
		require.Empty(t, queueOf(t, b))
		requireVerified(t, b)
	})

	t.Run("a status that is replaced takes nothing away", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "one")
		requireGets(t, a, 8, "other")
		requireRefused(t, a, 5, "other", 8)
		require.NoError(t, a.DeletePullStatus(pull(host, repo, 5)))
		endRun(t, a, 5)
		requireHeldBy(t, b, resource("one"), pullID(5))
		require.Equal(t, []string{"other 5"}, queueOf(t, b))
		requireGets(t, a, 5, "two")
		requireVerified(t, b)
	})

	t.Run("another commit is another run", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "one")
		closePull(t, a, 5)
		requireClosed(t, a, 5, "one")
		next := projectLock(host, repo, 5, "one")
		next.Pull.HeadCommit = "0123456789"
		acquired, _, err := a.TryLock(next)
		require.NoError(t, err)
		require.True(t, acquired)
		requireVerified(t, b)
	})

	t.Run("TombstoneTTL", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.TombstoneTTL = 200 * time.Millisecond })
		closePull(t, a, 5)
		requireVerified(t, b)
		Eventually(t, "it is forgotten", func() bool {
			acquired, _, err := a.TryLock(projectLock(host, repo, 5, "one"))
			return err == nil && acquired
		})
		requireVerified(t, b)
	})

	t.Run("only pull requests plan", func(t *testing.T) {
		_, b := queueAdapter(t, newBackend, nil)
		keeper, ok := b.(enhanced.RunKeeper)
		require.True(t, ok)
		require.ErrorIs(t, keeper.EndRun(t.Context(), enhanced.UserOwner("ann")), enhanced.ErrInvalidRequest)
		require.ErrorIs(t, keeper.ClosePull(t.Context(), enhanced.UserOwner("ann"), ""), enhanced.ErrInvalidRequest)
	})
}
