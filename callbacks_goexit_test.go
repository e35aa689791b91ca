package enhanced_test

import (
	"context"
	"runtime"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// A callback that ends its goroutine, as FailNow of a test does, costs neither
// the callbacks behind it nor later events anything, and Stop returns when all
// of them are delivered.
func TestCallbacksAreGoexitProof(t *testing.T) {
	t.Parallel()
	logger := logging.NewNoopLogger(t).WithHistory()
	manager := enhanced.NewEnhancedLockManager(newBackend(t, withEvents()), withEvents(), logger)
	var before, behind recorder
	manager.AddEventCallback(before.callback)
	manager.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) { runtime.Goexit() })
	manager.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) { panic("callback is broken") })
	manager.AddEventCallback(behind.callback)
	const locks = 50
	for i := range locks {
		_, err := manager.Lock(t.Context(), project(itoa(i)), workspace, alice())
		require.NoError(t, err)
	}
	require.NoError(t, manager.Stop(t.Context()))

	require.Len(t, behind.all(), locks)
	require.Equal(t, before.all(), behind.all(), "each once, in order")
	require.Contains(t, logger.GetHistory(), "event callback ended its goroutine on acquired")
	require.Contains(t, logger.GetHistory(), "callback is broken")
	require.Zero(t, stats(t, manager).DroppedEvents)

	_, err := manager.Lock(t.Context(), project("later"), workspace, alice())
	require.NoError(t, err)
	require.NoError(t, manager.Stop(t.Context()))
	require.Len(t, behind.all(), locks+1, "a stopped dispatcher starts again")
}

// Stop gives up on a callback that stands still, also in the goroutine that
// another callback has made necessary.
func TestStopWaitsBehindAGoexit(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	entered, leave := make(chan struct{}), make(chan struct{})
	manager.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) { runtime.Goexit() })
	manager.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) {
		close(entered)
		<-leave
	})
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	backendtest.Eventually(t, "the second callback is called", func() bool {
		select {
		case <-entered:
			return true
		default:
			return false
		}
	})
	require.ErrorIs(t, manager.Stop(ended(t)), enhanced.ErrTimeout)
	close(leave)
	require.NoError(t, manager.Stop(t.Context()))
}
