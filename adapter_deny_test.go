package enhanced_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestDenySystemUnlock(t *testing.T) {
	t.Parallel()
	config := enabled()
	config.DenySystemUnlock = true
	adapter := newAdapter(t, config)
	for _, path := range []string{"a", "b"} {
		acquired, _, err := adapter.TryLock(pullLock(5, path))
		require.NoError(t, err)
		require.True(t, acquired)
	}

	_, err := adapter.Unlock(project("a"), workspace)
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	require.ErrorContains(t, err, "deny_system_unlock: true")
	released, err := adapter.UnlockByPull(repo, 5)
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	require.Empty(t, released)
	locks, err := adapter.List()
	require.NoError(t, err)
	require.Len(t, locks, 2)

	// What names its owner stays possible.
	lock, err := adapter.UnlockIfOwnedByPull(project("a"), workspace, 5)
	require.NoError(t, err)
	require.NotNil(t, lock)
	lock, err = adapter.UnlockIfOwnedByPull(project("b"), workspace, 6)
	require.NoError(t, err)
	require.Nil(t, lock)

	// And it can be switched off while running.
	require.NoError(t, adapter.UpdateConfiguration(enabled()))
	released, err = adapter.UnlockByPull(repo, 5)
	require.NoError(t, err)
	require.Len(t, released, 1)
}
