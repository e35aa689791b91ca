package backendtest

import (
	"context"
	"slices"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// testCallbacks holds the callbacks of the one manager of a store to its log: a
// change is told once, whether by the call that made or awaited it or by the log.
func testCallbacks(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a callback sees each change once", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.EnableEvents = true })
		manager, is := a.Manager().(*enhanced.EnhancedLockManager)
		require.True(t, is)
		var mu sync.Mutex
		var told []string
		a.AddEventCallback(func(_ context.Context, e *enhanced.ManagerEvent) {
			mu.Lock()
			defer mu.Unlock()
			if e.Type != enhanced.EventRefused {
				told = append(told, e.Type+" "+e.LockID+" "+e.Owner)
			}
		})
		require.NoError(t, manager.Start(t.Context()))
		stop := func() { require.NoError(t, manager.Stop(context.WithoutCancel(t.Context()))) }
		defer stop()

		requireGets(t, a, 4, ".")
		granted := make(chan *enhanced.EnhancedLock, 1)
		go func() {
			lock, err := manager.Acquire(t.Context(), userRequest("bob", "."))
			if err != nil {
				t.Error(err)
			}
			granted <- lock
		}()
		Eventually(t, "the call waits", func() bool { return queueLength(t, b) == 1 })
		requireRefused(t, a, 5, ".", 4)
		requireRefused(t, a, 6, ".", 4)
		unlock(t, a, ".")
		lock := <-granted
		require.Equal(t, enhanced.EventGranted, lock.Event)
		_, err := manager.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID})
		require.NoError(t, err)
		requireGets(t, a, 5, ".") // what it was given
		giveBack(t, a, 5, ".")    // which is kept for it
		requireGets(t, a, 5, ".")
		giveBack(t, a, 5, ".")
		endRun(t, a, 5)
		requireGets(t, a, 6, ".")
		giveBack(t, a, 6, ".") // for whom nobody waits
		var logged []string
		for _, r := range readLog(t, b, repo, 0).Records {
			e := r.Event()
			logged = append(logged, e.Type+" "+e.LockID+" "+e.Owner)
		}
		slices.Sort(logged)
		Eventually(t, "all is told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(told) >= len(logged)
		})
		stop()
		slices.Sort(told)
		require.Equal(t, logged, told)
	})
}
