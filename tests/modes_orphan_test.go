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
// that has left its lock there.
func TestModesKeepALockThatIsBeingTaken(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	f.settle(t)
	lock := lockOf(project, 7, "a")
	taken := func() {
		lock.Time = time.Now()
		granted, _, err := f.legacy.TryLock(lock)
		require.NoError(t, err)
		require.True(t, granted)
	}
	taken()
	// A look between release and lock must not end the switch.
	keeps, err := f.manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{
		Project: lockOf(project, 8, "b").Project, Workspace: "default", User: models.User{Username: "ops"},
	})
	require.NoError(t, err)
	_, err = f.manager.SwitchMode(t.Context(), enhanced.ModeRead, "user:ops", "test")
	require.NoError(t, err)
	f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0").Problem != "" })

	// Longer than two operations may take, and some more looks.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for range 25 {
		<-again.C
		released, err := f.legacy.UnlockIfOwnedByPull(lock.Project, lock.Workspace, 7)
		require.NoError(t, err)
		require.NotNil(t, released, "released while its pull request had it")
		taken()
	}
	_, err = f.manager.Release(t.Context(), enhanced.ReleaseRequest{LockID: keeps.ID, Actor: "user:ops"})
	require.NoError(t, err)
	f.settle(t) // now it stays, so it is one that was left there
	f.requireHolders(t, "a", 0, 0)
}
