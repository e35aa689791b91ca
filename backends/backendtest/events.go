package backendtest

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// next returns the next event, within 40 seconds.
func next(t *testing.T, events <-chan *enhanced.LockEvent) *enhanced.LockEvent {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case event, open := <-events:
		require.True(t, open, "the channel is closed")
		return event
	case <-timeout.C:
		t.Fatalf("no event within %v", patience)
		return nil
	}
}

func testEvents(t *testing.T, newBackend NewBackend) {
	t.Run("every change is one event, in order", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequest(1, "before"))
		events, err := b.Subscribe(t.Context(), nil)
		require.NoError(t, err)

		lock := acquire(t, b, leased(pullRequest(5, "."), time.Minute))
		_, _, err = b.TryAcquireLock(t.Context(), pullRequest(6, "."))
		require.NoError(t, err)
		require.NoError(t, b.RefreshLock(t.Context(), lock.ID, time.Hour))
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, "user:alice"))
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: resource("."), Force: true, Actor: "user:admin", Reason: "because",
		})
		require.NoError(t, err)
		short := acquire(t, b, leased(pullRequest(7, "."), shortLease))
		awaitEnd(t, b, short)
		_, err = b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)

		event := next(t, events)
		require.Equal(t, enhanced.EventAcquired, event.Type)
		require.Equal(t, lock.ID, event.LockID)
		require.Equal(t, lock.Resource, event.Resource)
		require.Equal(t, lock.Owner, event.Owner)
		require.True(t, lock.AcquiredAt.Equal(event.Timestamp))
		require.NotEmpty(t, event.Metadata["expires_at"])

		require.Equal(t, enhanced.EventRefreshed, next(t, events).Type)

		event = next(t, events)
		require.Equal(t, enhanced.EventTransferred, event.Type)
		require.Equal(t, "user:alice", event.Owner)
		require.Equal(t, lock.Owner, event.Metadata["previous_owner"])

		event = next(t, events)
		require.Equal(t, enhanced.EventReleased, event.Type)
		require.Equal(t, "user:alice", event.Owner)
		require.Equal(t, "user:admin", event.Metadata["actor"])
		require.Equal(t, enhanced.CauseForced, event.Metadata["cause"])
		require.Equal(t, "because", event.Metadata["reason"])

		require.Equal(t, enhanced.EventAcquired, next(t, events).Type)
		event = next(t, events)
		require.Equal(t, enhanced.EventTimeout, event.Type)
		require.Equal(t, short.ID, event.LockID)
		require.Equal(t, enhanced.SystemStore, event.Metadata["actor"])
		require.Empty(t, events)
	})

	t.Run("only the types that are asked for", func(t *testing.T) {
		b := newBackend(t, nil)
		events, err := b.Subscribe(t.Context(), []string{enhanced.EventReleased})
		require.NoError(t, err)
		// More changes than a page of the log, none of them wanted but the last.
		for i := range 400 {
			acquire(t, b, pullRequest(5, "p"+itoa(i)))
		}
		require.NoError(t, b.ReleaseLock(t.Context(), acquire(t, b, pullRequest(5, ".")).ID))
		require.Equal(t, enhanced.EventReleased, next(t, events).Type)
		require.Empty(t, events)
	})

	t.Run("it ends with its context", func(t *testing.T) {
		b := newBackend(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		events, err := b.Subscribe(ctx, nil)
		require.NoError(t, err)
		cancel()
		Eventually(t, "the channel is closed", func() bool {
			select {
			case _, open := <-events:
				return !open
			default:
				return false
			}
		})
	})

	t.Run("a reader that never reads delays nobody", func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.EventBufferSize = 1
		b := newBackend(t, config)
		events, err := b.Subscribe(t.Context(), nil)
		require.NoError(t, err)
		const locks = 50
		for i := range locks {
			acquire(t, b, pullRequest(5, "p"+itoa(i)))
		}
		// And it has missed nothing when it does.
		for range locks {
			require.Equal(t, enhanced.EventAcquired, next(t, events).Type)
		}
	})
}
