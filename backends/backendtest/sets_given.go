package backendtest

import (
	"context"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// givenAndWaits has pull request 5 be given a lock, which it does not claim, and ask
// for it with the same request again in a set that has to wait for another lock.
func givenAndWaits(t *testing.T, b enhanced.Backend) (r *enhanced.EnhancedLockRequest, given, other *enhanced.EnhancedLock, w *waitingSet) {
	t.Helper()
	holder := acquire(t, b, userRequest("holder", "given"))
	other = acquire(t, b, userRequest("holder", "other"))
	r = withID(pullRequest(5, "given"), "once")
	r.Detached = true
	_, acquired, err := b.TryAcquireLock(t.Context(), r)
	require.NoError(t, err)
	require.False(t, acquired)
	release(t, b, holder)
	given = requireClaimable(t, b, "given", 5)
	w = enqueueSet(t, b, []*enhanced.EnhancedLockRequest{withID(pullRequest(5, "given"), "once"), pullRequest(5, "other")})
	requireVerified(t, b)
	return r, given, other, w
}

// testSetsGiven is about requests that wait in a set after they were given a lock.
func testSetsGiven(t *testing.T, newBackend NewBackend) {
	t.Helper()
	leave := func(t *testing.T, b enhanced.Backend, w *waitingSet) {
		t.Helper()
		w.cancel()
		_, err := w.result(t)
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, queueLength(t, b))
		requireVerified(t, b)
	}
	end := func(t *testing.T, b enhanced.Backend, given *enhanced.EnhancedLock) {
		t.Helper()
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: given.ID, Force: true, Actor: "user:admin", Reason: "a test"})
		require.NoError(t, err)
		requireNoLock(t, b, resource("given"))
		requireVerified(t, b)
	}

	t.Run("a set that leaves takes nothing from what its owner was given", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		r, given, _, w := givenAndWaits(t, b)
		leave(t, b, w)
		lock, acquired, err := b.TryAcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.True(t, acquired)
		require.Equal(t, given.ID, lock.ID)
		requireVerified(t, b)
	})

	t.Run("others may wait behind what its owner was given", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		_, _, _, w := givenAndWaits(t, b)
		one := enqueue(t, b, userRequest("one", "given"))
		require.Equal(t, 3, queueLength(t, b))
		requireVerified(t, b)
		one.cancel()
		<-one.done
		leave(t, b, w)
	})

	t.Run("a set of what its owner has claimed with another request", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		r, given, _, w := givenAndWaits(t, b)
		lock, acquired, err := b.TryAcquireLock(t.Context(), withID(pullRequest(5, "given"), "claim"))
		require.NoError(t, err)
		require.True(t, acquired)
		require.Equal(t, given.ID, lock.ID)
		requireVerified(t, b)
		leave(t, b, w)
		_, acquired, err = b.TryAcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.False(t, acquired, "it is another request's")
		requireVerified(t, b)
	})

	t.Run("a request whose lock has ended while it waited with a set", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		r, given, _, w := givenAndWaits(t, b)
		end(t, b, given)
		leave(t, b, w)
		_, _, err := b.TryAcquireLock(t.Context(), r)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		requireVerified(t, b)
	})

	t.Run("a set that gets what its owner had not claimed", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		r, given, other, w := givenAndWaits(t, b)
		end(t, b, given)
		release(t, b, other)
		locks := w.requireGranted(t)
		require.Greater(t, locks[0].Version, given.Version)
		requireVerified(t, b)
		lock, acquired, err := b.TryAcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.True(t, acquired)
		require.Equal(t, locks[0].ID, lock.ID)
		requireVerified(t, b)
	})

	for name, take := range map[string]func(t *testing.T, b enhanced.Backend, r *enhanced.EnhancedLockRequest) *enhanced.EnhancedLock{
		"alone": func(t *testing.T, b enhanced.Backend, r *enhanced.EnhancedLockRequest) *enhanced.EnhancedLock {
			t.Helper()
			lock, acquired, err := b.TryAcquireLock(t.Context(), r)
			require.NoError(t, err)
			require.True(t, acquired)
			return lock
		},
		"replacing": func(t *testing.T, b enhanced.Backend, r *enhanced.EnhancedLockRequest) *enhanced.EnhancedLock {
			t.Helper()
			replaced, err := sets(b).ReplaceAll(t.Context(), repo, enhanced.PullOwner(host, repo, 5), []*enhanced.EnhancedLockRequest{r})
			require.NoError(t, err)
			require.Len(t, replaced.Taken, 1)
			return replaced.Taken[0]
		},
	} {
		t.Run("a waiting request takes what is kept for its owner's set, "+name, func(t *testing.T) {
			b := newBackend(t, reserving())
			holder := acquire(t, b, userRequest("holder", "a"))
			acquire(t, b, userRequest("holder", "b"))
			set := enqueueSet(t, b, setOf(ofPull(5), "a", "b"))
			r := withID(pullRequest(5, "a"), "once")
			single := enqueue(t, b, r)
			release(t, b, holder)
			requireNoLock(t, b, resource("a"))
			single.requireWaits(t)
			lock := take(t, b, r)
			requireHeldBy(t, b, resource("a"), pullID(5))
			_, err := set.result(t)
			require.ErrorIs(t, err, enhanced.ErrLockExists, "nobody waits behind himself")
			_, err = single.result(t)
			var refusal *enhanced.LockError
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
			require.Equal(t, lock.ID, refusal.Holder.ID)
			require.Zero(t, queueLength(t, b))
			requireVerified(t, b)
			page, err := b.ReadLog(t.Context(), repo, 0, 100)
			require.NoError(t, err)
			var events []string
			for _, record := range page.Records {
				if record.RequestID == r.ID {
					events = append(events, record.Type)
				}
			}
			require.Equal(t, []string{enhanced.EventQueued, enhanced.EventAcquired, enhanced.EventCancelled}, events)
		})
	}
}
