package enhanced_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Start: "The work goes on until Stop or until ctx ends", "a stopped one can
// be started again".
func TestStartAfterItsContextEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, withEvents())
		var seen recorder
		manager.AddEventCallback(seen.callback)
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, manager.Start(ctx))
		cancel()
		synctest.Wait()

		require.NoError(t, manager.Start(t.Context()))
		_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Minute)
		require.NoError(t, err)
		pass(time.Minute + 100*time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"a"}, timeouts(&seen))
	})
}
