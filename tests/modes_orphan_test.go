package tests

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// On the way back to the legacy database, what only that one holds may be a lock that
// is being taken. A pull request that takes one again and again is not taken for one
// that has left its lock there before.
func TestModesKeepALockThatIsBeingTaken(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	f.settle(t)
	takes := func(lock models.ProjectLock) {
		lock.Time = time.Now()
		granted, _, err := f.legacy.TryLock(lock)
		require.NoError(t, err)
		require.True(t, granted)
	}
	lock := lockOf(project, 7, "a")
	takes(lock)
	takes(lockOf(project, 9, "left"))
	_, err := f.manager.SwitchMode(t.Context(), enhanced.ModeRead, "user:ops", "test")
	require.NoError(t, err)
	f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0").Problem != "" })

	// Longer than two operations may take, and until the switch is over.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for over := false; !over; {
		<-again.C
		released, err := f.legacy.UnlockIfOwnedByPull(lock.Project, lock.Workspace, 7)
		require.NoError(t, err)
		require.NotNil(t, released, "released while its pull request had it")
		takes(lock)
		fleet, err := f.manager.Fleet(t.Context())
		require.NoError(t, err)
		over = len(fleet.Behind()) == 0
	}
	f.settle(t)
	f.requireHolders(t, "a", 7, 0)
	f.requireHolders(t, "left", 0, 0)
}

// What comes into the legacy database alone while the switch goes on, and stays, is
// found before its end.
func TestModesFindALockThatComesLate(t *testing.T) {
	t.Parallel()
	left := func(t *testing.T, f *modes, path string) {
		t.Helper()
		granted, _, err := f.legacy.TryLock(lockOf(project, 9, path))
		require.NoError(t, err)
		require.True(t, granted)
	}
	for name, test := range map[string]struct {
		keep func(t *testing.T, f *modes) (goOn func())
	}{
		"while one of before is looked at": {func(t *testing.T, f *modes) func() {
			t.Helper()
			left(t, f, "before")
			return func() {}
		}},
		"while a problem keeps the switch from going on": {func(t *testing.T, f *modes) func() {
			t.Helper()
			where, user := lockOf(project, 1, "before").Project, models.User{Username: "alice"}
			_, err := f.manager.Lock(t.Context(), where, "default", user)
			require.NoError(t, err)
			return func() {
				_, err := f.manager.Unlock(t.Context(), where, "default", user)
				require.NoError(t, err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := boltModes(t, 1)
			f.settle(t)
			goOn := test.keep(t, f)
			_, err := f.manager.SwitchMode(t.Context(), enhanced.ModeRead, "user:ops", "test")
			require.NoError(t, err)
			f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0").Problem != "" })
			left(t, f, "late")
			goOn()
			f.settle(t)
			f.requireHolders(t, "before", 0, 0)
			f.requireHolders(t, "late", 0, 0)
		})
	}
}

// A copy of a lock that was released is taken back, and not the pull request's next
// lock with it.
func TestModesTakeNoCopyForTheLock(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	f.set(t, enhanced.ModeShadow)
	for _, mode := range []enhanced.Mode{enhanced.ModeShadow, enhanced.ModeFull} {
		path := string(mode)
		if mode == enhanced.ModeFull { // both decide while one is gone
			f.joinGone(t, enhanced.ModeShadow, 2)
			_, err := f.manager.SwitchMode(t.Context(), enhanced.ModeFull, "user:ops", "test")
			require.NoError(t, err)
			f.until(t, func(fleet enhanced.Fleet) bool { return len(fleet.Behind()) == 1 })
		}
		lock := lockOf(project, 1, path)
		copied, acquired, err := f.backend.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout,
			Metadata: map[string]string{"copied_from": "legacy database"},
		})
		require.NoError(t, err)
		require.True(t, acquired)
		take(t, f.adapters[0], lock)
		// By this call, or by the adapter's own look at copies, which releases it.
		if err := f.backend.ReleaseLock(t.Context(), copied.ID); err != nil {
			require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		}
		f.requireHolders(t, path, 1, 1)
	}
}
