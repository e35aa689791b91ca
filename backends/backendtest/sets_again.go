package backendtest

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// buryPull leaves the tombstone of a pull request, with the head commit of its requests,
// and takes nothing from it.
func buryPull(t *testing.T, b enhanced.Backend, number int) {
	t.Helper()
	require.NoError(t, b.(enhanced.RunKeeper).ClosePull(t.Context(), enhanced.PullOwner(host, repo, number), pull(host, repo, number).HeadCommit))
}

// testSetsAgain is about sets that are asked for again, and IDs that were used before.
func testSetsAgain(t *testing.T, newBackend NewBackend) {
	t.Helper()
	owner := enhanced.PullOwner(host, repo, 5)

	t.Run("an ID of a set's waiter, from a pull request that was closed", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("holder", "a"))
		w := enqueueSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b")))
		for _, number := range []int{5, 6} {
			buryPull(t, b, number)
			_, _, err := b.TryAcquireLock(t.Context(), withID(pullRequest(number, "other"), "once1"))
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			set := withIDs("once", setOf(ofPull(number), "b", "c"))
			_, err = sets(b).AcquireAll(t.Context(), set, true)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			_, err = sets(b).ReplaceAll(t.Context(), repo, set[0].Owner(), set)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		}
		w.requireWaits(t)
		requireVerified(t, b)
	})

	t.Run("a set that was granted, from a pull request that was closed", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		first := lockSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b")))
		buryPull(t, b, 5)
		for _, wait := range []bool{false, true} {
			again, err := sets(b).AcquireAll(t.Context(), withIDs("once", setOf(ofPull(5), "a", "b")), wait)
			require.NoError(t, err)
			require.Equal(t, first, again)
			_, err = sets(b).AcquireAll(t.Context(), withIDs("new", setOf(ofPull(5), "c", "d")), wait)
			require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
			_, err = sets(b).AcquireAll(t.Context(), withIDs("new", setOf(ofPull(5), "a", "b")), wait)
			require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		}
		release(t, b, first[1])
		_, err := sets(b).AcquireAll(t.Context(), withIDs("once", setOf(ofPull(5), "a", "b")), false)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		requireVerified(t, b)
	})

	t.Run("what was replaced, from a pull request that was closed", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lockSet(t, b, setOf(ofPull(5), "a", "b"))
		first, err := sets(b).ReplaceAll(t.Context(), repo, owner, withIDs("once", setOf(ofPull(5), "b", "c")))
		require.NoError(t, err)
		buryPull(t, b, 5)
		again, err := sets(b).ReplaceAll(t.Context(), repo, owner, withIDs("once", setOf(ofPull(5), "b", "c")))
		require.NoError(t, err)
		require.Equal(t, first.Held, again.Held)
		require.Empty(t, again.Taken)
		require.Empty(t, again.Freed)
		_, err = sets(b).ReplaceAll(t.Context(), repo, owner, withIDs("new", setOf(ofPull(5), "b", "d")))
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		requireHeldBy(t, b, resource("c"), owner.String())
		requireNoLock(t, b, resource("d"))
		requireVerified(t, b)
	})
}

// testSetsShareAnID is about sets of one owner with the same ID for the first resource.
func testSetsShareAnID(t *testing.T, newBackend NewBackend) {
	t.Helper()
	for name, paths := range map[string][]string{"of one size": {"a", "c"}, "of another size": {"a", "c", "d"}} {
		t.Run("two sets with one first ID, "+name, func(t *testing.T) {
			b := newBackend(t, queueConfig(nil))
			holder := acquire(t, b, userRequest("holder", "a"))
			w := enqueueSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b")))
			for _, wait := range []bool{true, false} {
				other := withIDs("other", setOf(ofPull(5), paths...))
				other[0].ID = "once0"
				_, err := sets(b).AcquireAll(t.Context(), other, wait)
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
				_, err = sets(b).ReplaceAll(t.Context(), repo, enhanced.PullOwner(host, repo, 5), other)
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			}
			w.requireWaits(t)
			requireVerified(t, b)
			release(t, b, holder)
			w.requireGranted(t)
			requireCount(t, b, 2)
		})
	}
}

// testSetsAlike is about what a set finds and leaves.
func testSetsAlike(t *testing.T, newBackend NewBackend) {
	t.Helper()
	// given has pull request 5 be given a lock that it does not claim.
	given := func(t *testing.T, b enhanced.Backend) *enhanced.EnhancedLock {
		t.Helper()
		holder := acquire(t, b, userRequest("holder", "given"))
		r := pullRequest(5, "given")
		r.Detached = true
		_, acquired, err := b.TryAcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.False(t, acquired)
		release(t, b, holder)
		return requireClaimable(t, b, "given", 5)
	}
	requireClaimed := func(t *testing.T, b enhanced.Backend, before, claimed *enhanced.EnhancedLock) {
		t.Helper()
		require.Equal(t, before.ID, claimed.ID)
		stored, err := b.LookupLock(t.Context(), resource("given"))
		require.NoError(t, err)
		require.Equal(t, stored, claimed)
		requireVerified(t, b)
	}

	t.Run("what a set claims is answered as it is", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		before := given(t, b)
		set := setOf(ofPull(5), "given", "new")
		set[0].Priority = enhanced.PriorityCritical
		requireClaimed(t, b, before, lockSet(t, b, set)[0])
	})

	t.Run("what is claimed to replace is taken", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		kept := acquire(t, b, pullRequest(5, "kept"))
		before := given(t, b)
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, enhanced.PullOwner(host, repo, 5), setOf(ofPull(5), "kept", "given"))
		require.NoError(t, err)
		require.Equal(t, ids([]*enhanced.EnhancedLock{kept, before}), ids(replaced.Held))
		require.Equal(t, ids([]*enhanced.EnhancedLock{before}), ids(replaced.Taken))
		requireClaimed(t, b, before, replaced.Taken[0])
	})

	t.Run("what is replaced is free together", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lockSet(t, b, setOf(ofPull(5), "a", "b"))
		both := enqueueSet(t, b, setOf(ofPull(6), "a", "b"))
		single := enqueue(t, b, userRequest("ann", "a"))
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, enhanced.PullOwner(host, repo, 5), nil)
		require.NoError(t, err)
		require.Len(t, replaced.Freed, 2)
		locks := both.requireGranted(t)
		single.requireWaits(t)
		requireVerified(t, b)
		release(t, b, locks[0])
		single.requireGranted(t)
	})
}
