package backendtest

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// testSetsOfRuns is about sets where Atlantis' own calls wait, too.
func testSetsOfRuns(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a set claims what its owner was given, and takes back what it has reserved", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "kept")
		requireRefused(t, a, 6, "kept", 5)
		giveBack(t, a, 5, "kept")
		requireGets(t, a, 7, "given")
		requireRefused(t, a, 5, "given", 7)
		requireRefused(t, a, 6, "given", 7)
		unlock(t, a, "given")
		given := requireClaimable(t, b, "given", 5)

		refused := func(number int, paths ...string) {
			_, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(number), paths...), false)
			require.ErrorIs(t, err, enhanced.ErrLockExists)
		}
		refused(6, "kept", "free")
		refused(6, "given", "free")
		requireNoLock(t, b, resource("free"))
		locks := lockSet(t, b, setOf(ofPull(5), "kept", "given", "free"))
		require.Equal(t, given.ID, locks[1].ID)
		for _, path := range []string{"kept", "given", "free"} {
			requireHeldBy(t, b, resource(path), pullID(5))
			lock, err := b.LookupLock(t.Context(), resource(path))
			require.NoError(t, err)
			require.Equal(t, enhanced.LockStateAcquired, lock.State)
			require.Nil(t, lock.ExpiresAt)
		}
		endRun(t, a, 5)
		requireHeldBy(t, b, resource("kept"), pullID(5))
		requireVerified(t, b)
	})

	t.Run("a replaced set does the same", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "kept")
		requireRefused(t, a, 6, "kept", 5)
		giveBack(t, a, 5, "kept")
		requireGets(t, a, 7, "given")
		requireRefused(t, a, 5, "given", 7)
		unlock(t, a, "given")
		owner := enhanced.PullOwner(host, repo, 5)
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "kept", "given"))
		require.NoError(t, err)
		require.Len(t, replaced.Held, 2)
		for _, path := range []string{"kept", "given"} {
			requireHeldBy(t, b, resource(path), pullID(5))
			lock, err := b.LookupLock(t.Context(), resource(path))
			require.NoError(t, err)
			require.Equal(t, enhanced.LockStateAcquired, lock.State)
		}
		requireVerified(t, b)
	})

	t.Run("a replaced set ends what its owner has reserved beside it", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "unwanted")
		requireRefused(t, a, 6, "unwanted", 5)
		giveBack(t, a, 5, "unwanted")
		requireNoLock(t, b, resource("unwanted"))
		_, err := sets(b).ReplaceAll(t.Context(), repo, enhanced.PullOwner(host, repo, 5), setOf(ofPull(5), "wanted"))
		require.NoError(t, err)
		requireClaimable(t, b, "unwanted", 6)
		ended := requireLogged(t, b, enhanced.EventReservationEnded, pullID(5))
		require.Equal(t, enhanced.CauseRequest, ended.Cause)
		require.Equal(t, pullID(5), ended.Actor)
		requireVerified(t, b)
	})

	t.Run("a closed pull request gets no set", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		requireGets(t, a, 5, "held")
		_, err := a.UnlockByPull(repo, 5)
		require.NoError(t, err)
		require.NoError(t, a.DeletePullStatus(pull(host, repo, 5)))
		_, err = sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "one", "two"), false)
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		requireNoLock(t, b, resource("one"))
		requireVerified(t, b)
	})
}
