package enhanced_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// From its lease's end on a lock is free, so nobody holds it.
func TestHoldTimeOfALeaseEndsWithTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, nil)
		_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), 10*time.Second)
		require.NoError(t, err)
		pass(24 * time.Hour)
		_, err = manager.GetBackend().CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, stats(t, manager).AverageHoldTime)
	})
}
