package backendtest

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func managerOf(t *testing.T, a *enhanced.LockingAdapter) *enhanced.EnhancedLockManager {
	t.Helper()
	m, ok := a.Manager().(*enhanced.EnhancedLockManager)
	require.True(t, ok)
	return m
}

// place is where a pull request stands in the queue of a project.
func place(t *testing.T, m *enhanced.EnhancedLockManager, number int, path string) enhanced.Place {
	t.Helper()
	r := resource(path)
	place, err := m.FindPlace(t.Context(), r.Project(), r.Workspace, enhanced.PullOwner(host, repo, number))
	require.NoError(t, err)
	return place
}

// foreseen is what a manager foresees for a pull request.
func foreseen(t *testing.T, m *enhanced.EnhancedLockManager, number int, path string) enhanced.Foreseen {
	t.Helper()
	answers := m.Foresee(t.Context(), []*enhanced.EnhancedLockRequest{pullRequest(number, path)})
	require.Len(t, answers, 1)
	require.NoError(t, answers[0].Err)
	return answers[0]
}

// requireForeseen checks that what is foreseen for a pull request is what it gets.
func requireForeseen(t *testing.T, a *enhanced.LockingAdapter, number int, path string) {
	t.Helper()
	before := foreseen(t, managerOf(t, a), number, path)
	acquired, lock := try(t, a, number, path)
	require.Equal(t, acquired, before.Acquired, "%d on %s", number, path)
	require.Equal(t, lock.Pull.Num, before.Lock.OriginalLock.Pull.Num, "%d on %s", number, path)
}

// testPlace is about what those who wait are told of what they wait for.
func testPlace(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("who waits knows for what", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, nil)
		m := managerOf(t, a)
		require.Equal(t, enhanced.Place{}, place(t, m, 6, "."))
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		requireRefused(t, a, 7, ".", 5)
		require.Equal(t, enhanced.Place{
			Number: 2, Length: 2, Blocker: &enhanced.Blocker{Kind: enhanced.BlockedByLock, Owner: pullID(5)},
		}, place(t, m, 7, "."))

		giveBack(t, a, 5, ".")
		kept := place(t, m, 6, ".")
		require.Equal(t, 1, kept.Number)
		require.Equal(t, enhanced.BlockedByReservation, kept.Blocker.Kind)
		require.Equal(t, pullID(5), kept.Blocker.Owner)
		page, err := b.ReadLog(t.Context(), repo, 0, 100)
		require.NoError(t, err)
		reserved := page.Records[len(page.Records)-1]
		require.Equal(t, enhanced.EventReserved, reserved.Type)
		// The run's last request was before the reservation.
		require.Equal(t, enhanced.DefaultConfig().ReplanWindow, kept.Blocker.Until.Sub(reserved.Time))
		again, err := b.ReadLog(t.Context(), repo, 0, 100)
		require.NoError(t, err)
		require.Len(t, again.Records, len(page.Records), "to look changes nothing")
		requireForeseen(t, a, 7, ".")
		require.NotContains(t, enhanced.NewHeldError(resource("."), foreseen(t, m, 7, ".").Lock).Error(), "lease ended")
		requireGets(t, a, 5, "other") // its run goes on: half a minute from here
		kept = place(t, m, 6, ".")
		require.Equal(t, enhanced.BlockedByReservation, kept.Blocker.Kind)
		require.Less(t, kept.Blocker.Until.Sub(reserved.Time), enhanced.DefaultConfig().ReplanWindow)
		requireForeseen(t, a, 5, ".")
		require.Equal(t, enhanced.BlockedByLock, place(t, m, 6, ".").Blocker.Kind, "it has taken it back")

		unlock(t, a, ".")
		claim := requireClaimable(t, b, ".", 6)
		next := place(t, m, 7, ".")
		require.Equal(t, 1, next.Number)
		require.Equal(t, &enhanced.Blocker{Kind: enhanced.BlockedByClaim, Owner: pullID(6), Until: claim.ExpiresAt}, next.Blocker)
		require.Zero(t, place(t, m, 6, ".").Number)
		requireForeseen(t, a, 7, ".")
		requireForeseen(t, a, 6, ".")
		lock, err := b.LookupLock(t.Context(), resource("."))
		require.NoError(t, err)
		require.Equal(t, enhanced.LockStateAcquired, lock.State, "it was claimed")
	})

	t.Run("a reservation that is over keeps nobody", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.ReplanWindow = 100 * time.Millisecond })
		reader := b.(enhanced.ReservationReader)
		requireGets(t, a, 5, ".")
		requireRefused(t, a, 6, ".", 5)
		giveBack(t, a, 5, ".")
		Eventually(t, "it is over", func() bool {
			_, err := reader.LookupReservation(t.Context(), resource("."))
			return err != nil
		})
		_, err := reader.LookupReservation(t.Context(), resource("."))
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		_, err = reader.LookupReservation(t.Context(), resource("\x00"))
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	})
}

// testSetsPlace is testPlace for sets.
func testSetsPlace(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("who waits behind a set knows whose it is", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.SetReserveAfter = time.Millisecond }))
		m := enhanced.NewEnhancedLockManager(b, queueConfig(nil), nil)
		acquire(t, b, pullRequest(5, "b"))
		enqueueSet(t, b, setOf(ofPull(6), "a", "b"))
		Eventually(t, "what is free is kept for the set", func() bool {
			_, acquired, err := b.TryAcquireLock(t.Context(), pullRequest(8, "a"))
			require.NoError(t, err)
			if acquired {
				lock := lockOn(t, b, "a")
				require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			}
			return !acquired
		})
		other := foreseen(t, m, 8, "a")
		require.False(t, other.Acquired)
		require.Equal(t, enhanced.BlockedBySet, other.Kind)
		require.Equal(t, pullID(6), other.Lock.Owner)
		require.Empty(t, other.Lock.ID)
		require.Equal(t, enhanced.LockStatePending, other.Lock.State)
		require.True(t, foreseen(t, m, 6, "a").Acquired, "it takes what is kept for it")
		held := foreseen(t, m, 8, "b")
		require.Equal(t, enhanced.BlockedByLock, held.Kind, "somebody holds it, whoever else waits for it")
		require.Equal(t, pullID(5), held.Lock.Owner)
		_, err := b.(enhanced.ReservationReader).LookupReservation(t.Context(), resource("b"))
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		enqueue(t, b, pullRequest(7, "a"))
		require.Equal(t, enhanced.Place{
			Number: 2, Length: 2, Blocker: &enhanced.Blocker{Kind: enhanced.BlockedBySet, Owner: pullID(6)},
		}, place(t, m, 7, "a"))
	})

	t.Run("a set keeps what becomes free, once it is old", func(t *testing.T) {
		config := queueConfig(func(c *enhanced.EnhancedConfig) { c.SetReserveAfter = time.Hour })
		b := newBackend(t, config)
		m := enhanced.NewEnhancedLockManager(b, config, nil)
		acquire(t, b, pullRequest(5, "b"))
		set := enqueueSet(t, b, setOf(ofPull(6), "a", "b"))
		require.True(t, foreseen(t, m, 8, "a").Acquired, "it is not old yet")
		require.NoError(t, m.UpdateConfiguration(reserving()))
		require.Equal(t, enhanced.BlockedBySet, foreseen(t, m, 8, "a").Kind)
		require.True(t, foreseen(t, m, 8, "c").Acquired, "it does not want that")
		set.cancel()
		_, err := set.result(t)
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, foreseen(t, m, 8, "a").Acquired, "it has left")
	})
}
