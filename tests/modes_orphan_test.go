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

	// Longer than two operations may take.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for range 20 {
		<-again.C
		released, err := f.legacy.UnlockIfOwnedByPull(lock.Project, lock.Workspace, 7)
		require.NoError(t, err)
		require.NotNil(t, released, "released while its pull request had it")
		takes(lock)
	}
	f.settle(t)
	f.requireHolders(t, "a", 7, 0)
	f.requireHolders(t, "left", 0, 0)
}
