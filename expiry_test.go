package enhanced_test

import (
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// timeouts returns the paths whose leases ended according to the events.
func timeouts(seen *recorder) []string {
	var paths []string
	for _, event := range seen.all() {
		if event.Type == enhanced.EventTimeout {
			paths = append(paths, event.Resource.Path)
		}
	}
	return paths
}

func TestRunningManagerEndsLeasesWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, withEvents())
		var seen recorder
		manager.AddEventCallback(seen.callback)
		require.NoError(t, manager.Start(t.Context()))

		// The later lease is known before the earlier one.
		_, err := manager.LockWithTimeout(t.Context(), project("late"), workspace, alice(), time.Hour)
		require.NoError(t, err)
		_, err = manager.LockWithTimeout(t.Context(), project("early"), workspace, alice(), 10*time.Second)
		require.NoError(t, err)
		_, err = manager.LockWithTimeout(t.Context(), project("never"), workspace, alice(), enhanced.NoTimeout)
		require.NoError(t, err)

		pass(10*time.Second - time.Millisecond)
		synctest.Wait()
		require.Empty(t, timeouts(&seen))
		pass(time.Millisecond + 100*time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"early"}, timeouts(&seen))
		require.EqualValues(t, 1, stats(t, manager).Expirations)

		pass(time.Hour - 10*time.Second)
		synctest.Wait()
		require.Equal(t, []string{"early", "late"}, timeouts(&seen))
		events := seen.all()
		last := events[len(events)-1]
		require.Equal(t, "user:alice", last.Owner)
		require.Equal(t, enhanced.CauseExpired, last.Metadata["cause"])

		locks, err := manager.List(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 1)
		require.Equal(t, "never", locks[0].Project.Path)
	})
}

func TestRunningManagerFollowsARefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, withEvents())
		var seen recorder
		manager.AddEventCallback(seen.callback)
		require.NoError(t, manager.Start(t.Context()))
		backend := manager.GetBackend()
		lock, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), Timeout: time.Minute})
		require.NoError(t, err)

		pass(50 * time.Second)
		require.NoError(t, backend.RefreshLock(t.Context(), lock.ID, time.Minute))
		pass(50 * time.Second)
		synctest.Wait()
		require.Empty(t, timeouts(&seen), "the lease was extended")
		_, err = backend.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)

		// And one that was cut short.
		require.NoError(t, backend.RefreshLock(t.Context(), lock.ID, time.Second))
		pass(time.Second + 100*time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"a"}, timeouts(&seen))
	})
}

func TestStartEndsLeasesThatRanOutBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, withEvents())
		var seen recorder
		manager.AddEventCallback(seen.callback)
		_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Minute)
		require.NoError(t, err)
		pass(time.Hour)
		require.Empty(t, timeouts(&seen), "no manager runs")
		require.NoError(t, manager.Start(t.Context()))
		pass(100 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"a"}, timeouts(&seen))
	})
}

func TestStartTwiceWorksOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, withEvents())
		var seen recorder
		manager.AddEventCallback(seen.callback)
		require.NoError(t, manager.Start(t.Context()))
		require.NoError(t, manager.Start(t.Context()))
		_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Minute)
		require.NoError(t, err)
		pass(time.Minute + 100*time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"a"}, timeouts(&seen))

		require.NoError(t, manager.Stop(t.Context()))
		_, err = manager.LockWithTimeout(t.Context(), project("b"), workspace, alice(), time.Minute)
		require.NoError(t, err)
		pass(time.Hour)
		synctest.Wait()
		require.Equal(t, []string{"a"}, timeouts(&seen), "one Stop ends it")
	})
}

func TestEveryRunningManagerHearsOfALeasesEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		backend := newBackend(t, withEvents())
		var seen [2]recorder
		for i := range seen {
			manager := newManagerOn(t, backend, withEvents())
			manager.AddEventCallback(seen[i].callback)
			require.NoError(t, manager.Start(t.Context()))
		}
		_, err := newManagerOn(t, backend, nil).LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Minute)
		require.NoError(t, err)
		pass(time.Minute + 100*time.Millisecond)
		synctest.Wait()
		for i := range seen {
			require.Equal(t, []string{"a"}, timeouts(&seen[i]), "exactly once")
		}
	})
}

func TestLeasesEndWithoutARunningManager(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, nil)
		_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Minute)
		require.NoError(t, err)
		pass(time.Minute - time.Millisecond)
		_, err = manager.Lock(t.Context(), project("a"), workspace, bob())
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		pass(time.Millisecond)

		// Everybody sees it, at once.
		locks, err := manager.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, locks)
		_, err = manager.Unlock(t.Context(), project("a"), workspace, alice())
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		_, err = manager.Lock(t.Context(), project("a"), workspace, bob())
		require.NoError(t, err)
	})
}

func TestStopLeavesLeasesRunning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, nil)
		require.NoError(t, manager.Start(t.Context()))
		_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Hour)
		require.NoError(t, err)
		require.NoError(t, manager.Stop(t.Context()))
		pass(time.Minute)
		_, err = manager.Lock(t.Context(), project("a"), workspace, bob())
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		pass(time.Hour)
		_, err = manager.Lock(t.Context(), project("a"), workspace, bob())
		require.NoError(t, err)
	})
}
