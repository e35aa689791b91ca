package backendtest

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// RunSetsDeadlock is the part of the suite about owners that hold something when they ask for
// a set. The error is how one is refused that would close a circle.
func RunSetsDeadlock(t *testing.T, newBackend NewBackend, refusal error) {
	t.Helper()
	t.Run("a set that would close a circle is refused", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("alice", "vpc"))
		db := acquire(t, b, userRequest("bob", "db"))
		waits := enqueue(t, b, userRequest("alice", "db"))
		ofBob := func(path string) *enhanced.EnhancedLockRequest { return userRequest("bob", path) }
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofBob, "dns", "vpc"), true)
		require.ErrorIs(t, err, refusal)
		waits.requireWaits(t)
		require.Equal(t, 1, queueLength(t, b), "nothing of the set waits")
		requireFree(t, b, resource("dns"))
		require.NoError(t, b.ReleaseLock(t.Context(), db.ID))
		waits.requireGranted(t)
		requireVerified(t, b)
	})
}
