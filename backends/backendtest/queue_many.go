package backendtest

import (
	"context"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// manyCalls is more than one step of a store takes out of a queue.
const manyCalls = 150

// enqueueMany has many calls of one owner wait for one resource, and returns a channel
// of their answers.
func enqueueMany(t *testing.T, b enhanced.Backend) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error, manyCalls)
	var done sync.WaitGroup
	for range manyCalls {
		done.Go(func() {
			_, err := b.AcquireLock(ctx, userRequest("many", "."))
			answers <- err
		})
	}
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	Eventually(t, "all of them wait", func() bool { return queueLength(t, b) == manyCalls })
	return answers
}

// testManyOfOne is about an owner with more requests than one step takes out.
func testManyOfOne(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("all requests of an owner are cancelled", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("holder", "."))
		answers := enqueueMany(t, b)
		other := enqueue(t, b, userRequest("many-others", "."))
		require.NoError(t, b.CancelRequest(t.Context(), resource("."), "user:many", "user:admin"))
		require.Equal(t, 1, queueLength(t, b))
		Eventually(t, "all calls are answered", func() bool { return len(answers) == manyCalls })
		for range manyCalls {
			require.ErrorIs(t, <-answers, enhanced.ErrLockExpired)
		}
		other.requireWaits(t)
		require.ErrorIs(t, b.CancelRequest(t.Context(), resource("."), "user:many", "user:admin"), enhanced.ErrLockNotFound)
		requireVerified(t, b)
	})

	t.Run("none of them waits behind its owner", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		answers := enqueueMany(t, b)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		Eventually(t, "all calls are answered", func() bool { return len(answers) == manyCalls })
		granted := 0
		for range manyCalls {
			err := <-answers
			if err == nil {
				granted++
				continue
			}
			require.ErrorIs(t, err, enhanced.ErrLockExists)
		}
		require.Equal(t, 1, granted)
		requireHeldBy(t, b, resource("."), "user:many")
		require.Zero(t, queueLength(t, b))
		requireVerified(t, b)
	})
}
