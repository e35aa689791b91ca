package enhanced_test

import (
	"context"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

// TestMain's leak check is part of this test.
func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	legacy := stockOn(t, file)
	backend := newBackendOn(t, file, withEvents())
	manager := newManagerOn(t, backend, withEvents())
	adapter := enhanced.NewLockingAdapter(manager, backend, withEvents(), legacy, nil)
	var seen recorder
	adapter.AddEventCallback(seen.callback)
	require.NoError(t, manager.Start(t.Context()))
	events, err := backend.Subscribe(t.Context(), nil)
	require.NoError(t, err)
	_, _, err = adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	require.Equal(t, enhanced.EventAcquired, (<-events).Type)

	require.NoError(t, adapter.Close())

	_, open := <-events
	require.False(t, open)
	require.Equal(t, []string{"acquired"}, seen.types(), "delivered before Close returned")
	for name, call := range lockCalls(adapter) {
		require.ErrorIs(t, call(), enhanced.ErrBackend, name)
	}
	require.ErrorContains(t, legacy.Ping(), "database not open")
	require.NoError(t, adapter.Close(), "a second time")
}

func TestCloseKeepsLocks(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	backend := newBackendOn(t, file, enabled())
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, enabled()), backend, enabled(), nil, nil)
	_, _, err := adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	require.NoError(t, adapter.Close())

	next := newBackendOn(t, file, enabled())
	locks, err := newManagerOn(t, next, enabled()).List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1)
}

func TestCloseDoesNotWaitForeverForCallbacks(t *testing.T) {
	t.Parallel()
	config := withEvents()
	config.OperationTimeout = 500 * time.Millisecond
	adapter := newAdapter(t, config)
	entered, leave := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(letGo)
	adapter.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) { close(entered); <-leave })
	_, _, err := adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	<-entered
	require.ErrorIs(t, adapter.Close(), enhanced.ErrTimeout)
	letGo()
	require.NoError(t, adapter.Close())
}

// Atlantis' methods have no context: they end within OperationTimeout even
// when the file is busy, and what has not begun by then never does.
func TestDatabaseMethodsEndWithinOperationTimeout(t *testing.T) {
	t.Parallel()
	config := enabled()
	config.OperationTimeout = 100 * time.Millisecond
	file := openFile(t)
	backend := newBackendOn(t, file, config)
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, config), backend, config, nil, nil)
	busy, err := file.Begin(true) // bbolt has one writer
	require.NoError(t, err)

	calls := lockCalls(adapter)
	for _, name := range []string{"TryLock", "Unlock", "UnlockIfOwnedByPull", "UnlockByPull"} {
		err := calls[name]()
		require.ErrorIs(t, err, enhanced.ErrTimeout, name)
		require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown, "%s was withdrawn before it began", name)
	}

	require.NoError(t, busy.Rollback())
	backendtest.Eventually(t, "it goes on", func() bool {
		// A try that a slow disk did not answer in time can have taken it.
		_, holder, err := adapter.TryLock(pullLock(6, "other"))
		return err == nil && holder.Pull.Num == 6
	})
	backendtest.Eventually(t, "what was withdrawn takes no effect", func() bool {
		locks, err := adapter.List()
		return err == nil && len(locks) == 1
	})
}
