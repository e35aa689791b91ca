package enhanced_test

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// EventCallback: "The context ends when the manager is told to stop."
func TestCallbackContextEndsWithStop(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	var seen context.Context
	manager.AddEventCallback(func(ctx context.Context, _ *enhanced.ManagerEvent) { seen = ctx })
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.NoError(t, manager.Stop(t.Context()))
	require.ErrorIs(t, seen.Err(), context.Canceled)
}

// A callback that honours its context must not hold up Stop until Stop's own
// context ends.
func TestStopEndsACallbackThatHonoursItsContext(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	entered := make(chan struct{})
	manager.AddEventCallback(func(ctx context.Context, _ *enhanced.ManagerEvent) {
		close(entered)
		<-ctx.Done()
	})
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.NoError(t, manager.Stop(ctx))
}

// After a Stop that gave up, a restarted manager's callbacks get a context of
// their own.
func TestCallbackContextAfterRestart(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	var last error
	manager.AddEventCallback(func(ctx context.Context, _ *enhanced.ManagerEvent) {
		entered <- struct{}{}
		<-leave
		last = ctx.Err()
	})
	require.NoError(t, manager.Start(t.Context()))
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, manager.Stop(ctx), enhanced.ErrTimeout)
	close(leave)
	require.NoError(t, manager.Stop(t.Context()))

	require.NoError(t, manager.Start(t.Context()))
	_, err = manager.Lock(t.Context(), project("b"), workspace, alice())
	require.NoError(t, err)
	<-entered
	require.NoError(t, manager.Stop(t.Context()))
	require.NoError(t, last)
}
