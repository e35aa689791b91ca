package backendtest

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// testSetsDeadlock is about owners that hold something when they ask for a set.
func testSetsDeadlock(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a set that would close a circle is refused", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("alice", "vpc"))
		db := acquire(t, b, userRequest("bob", "db"))
		waits := enqueue(t, b, userRequest("alice", "db"))
		ofBob := func(path string) *enhanced.EnhancedLockRequest { return userRequest("bob", path) }
		acquire(t, b, userRequest("carol", "app"))
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofBob, "app", "dns", "vpc"), true)
		refusal := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, enhanced.ErrCodeDeadlock, refusal.Code)
		require.Equal(t, resource("vpc"), refusal.Resource)
		require.ErrorContains(t, err, "held by user alice")
		record := requireLogged(t, b, enhanced.EventDeadlock, "user:bob")
		require.Equal(t, enhanced.DeadlockRefused, record.Deadlock.Outcome)
		require.Equal(t, resource("vpc"), record.Resource)
		require.Len(t, record.Deadlock.Cycle, 2)
		waits.requireWaits(t)
		require.Equal(t, 1, queueLength(t, b), "nothing of the set waits")
		requireFree(t, b, resource("dns"))
		require.NoError(t, b.ReleaseLock(t.Context(), db.ID))
		waits.requireGranted(t)
		requireVerified(t, b)
	})

	t.Run("a set in a circle of places is dissolved by moving", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		a, c := acquire(t, b, userRequest("holder", "a")), acquire(t, b, userRequest("holder", "c"))
		high := func(user, path string) *enhanced.EnhancedLockRequest {
			return userWith(user, path, enhanced.PriorityHigh)
		}
		// In one queue bob is behind alice, and the set of hers is behind him in the other.
		alice := enqueue(t, b, userRequest("alice", "a"))
		bob := []*waiter{enqueue(t, b, userRequest("bob", "a")), enqueue(t, b, high("bob", "c"))}
		set := enqueueSet(t, b, setOf(ofUser("alice"), "b", "c"))
		record := requireLogged(t, b, enhanced.EventDeadlock, "user:alice")
		require.Equal(t, enhanced.DeadlockReordered, record.Deadlock.Outcome)
		require.NotEmpty(t, record.Deadlock.Moved)
		requireVerified(t, b)
		release(t, b, a, c)
		release(t, b, alice.requireGranted(t))
		release(t, b, set.requireGranted(t)...)
		for _, w := range bob {
			release(t, b, w.requireGranted(t))
		}
		requireVerified(t, b)
	})

	t.Run("a set that is the victim leaves whole", func(t *testing.T) {
		config := detecting(func(c *enhanced.EnhancedConfig) { c.ResolutionPolicy = enhanced.PolicyYoungest })
		b := newBackend(t, config)
		vpc := acquire(t, b, userRequest("alice", "vpc"))
		acquire(t, b, userRequest("bob", "db"))
		waits := enqueue(t, b, userRequest("alice", "db"))
		set := enqueueSet(t, b, setOf(ofUser("bob"), "dns", "vpc"))
		detect(t, b, config)
		_, err := set.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
		require.ErrorContains(t, err, "youngest")
		waits.requireWaits(t)
		require.Equal(t, 1, queueLength(t, b))
		record := requireLogged(t, b, enhanced.EventDeadlock, "user:bob")
		require.Equal(t, enhanced.DeadlockVictim, record.Deadlock.Outcome)
		_, err = b.GetLock(t.Context(), vpc.ID)
		require.NoError(t, err)
		requireVerified(t, b)
	})
}
