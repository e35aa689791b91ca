package backendtest

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// RunQueueMoves is the part of the suite for backends whose waiters can be moved.
func RunQueueMoves(t *testing.T, newBackend NewBackend) {
	t.Helper()
	move := func(b enhanced.Backend, path, owner string) error {
		mover, ok := b.(enhanced.RequestMover)
		require.True(t, ok)
		return mover.MoveRequest(t.Context(), resource(path), owner, "user:admin", "hotfix")
	}

	t.Run("a moved waiter is before all others, the last one first", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		events, err := b.Subscribe(t.Context(), []string{enhanced.EventMoved})
		require.NoError(t, err)
		lock := acquire(t, b, userRequest("holder", "."))
		high := enqueue(t, b, userWith("high", ".", enhanced.PriorityCritical))
		low := enqueue(t, b, userWith("low", ".", enhanced.PriorityLow))
		last := enqueue(t, b, userWith("last", ".", enhanced.PriorityLow))
		require.NoError(t, move(b, ".", "user:low"))
		require.NoError(t, move(b, ".", "user:last"))
		requireVerified(t, b)
		// A change of the order leaves them where they were put.
		require.NoError(t, b.UpdateConfiguration(queueConfig(func(c *enhanced.EnhancedConfig) { c.PriorityAgingInterval = time.Hour })))
		after := enqueue(t, b, userWith("after", ".", enhanced.PriorityCritical))
		requireVerified(t, b)
		for _, w := range []*waiter{last, low, high, after} {
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			lock = w.requireGranted(t)
		}
		for _, owner := range []string{"user:low", "user:last"} {
			event := <-events
			require.Equal(t, owner, event.Owner)
			require.Equal(t, "user:admin", event.Metadata["actor"])
			require.Equal(t, enhanced.CauseForced, event.Metadata["cause"])
			require.Equal(t, "hotfix", event.Metadata["reason"])
		}
	})

	t.Run("the requests of one owner keep their order", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("holder", "."))
		enqueue(t, b, userRequest("other", "."))
		for _, id := range []string{"first", "second"} {
			r := userRequest("next", ".")
			r.ID = id
			enqueue(t, b, r)
		}
		require.NoError(t, move(b, ".", "user:next"))
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.Equal(t, "first", status.PendingRequests[0].ID)
		require.Equal(t, "second", status.PendingRequests[1].ID)
	})

	t.Run("who does not wait is not moved", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		require.ErrorIs(t, move(b, ".", "user:next"), enhanced.ErrLockNotFound)
		acquire(t, b, userRequest("holder", "."))
		require.ErrorIs(t, move(b, ".", "user:holder"), enhanced.ErrLockNotFound)
		require.ErrorIs(t, move(b, ".", "nobody"), enhanced.ErrInvalidRequest)
		enqueue(t, b, userRequest("next", "."))
		require.ErrorIs(t, move(b, "other", "user:next"), enhanced.ErrLockNotFound)
		require.NoError(t, move(b, ".", "user:next"))
	})
}
