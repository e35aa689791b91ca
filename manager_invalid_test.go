package enhanced_test

import (
	"context"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// managerCalls returns every call of a manager that can fail.
func managerCalls(manager *enhanced.EnhancedLockManager) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Lock": func(ctx context.Context) error {
			_, err := manager.Lock(ctx, project("a"), workspace, alice())
			return err
		},
		"Unlock": func(ctx context.Context) error {
			_, err := manager.Unlock(ctx, project("a"), workspace, alice())
			return err
		},
		"List": func(ctx context.Context) error { _, err := manager.List(ctx); return err },
		"LockWithPriority": func(ctx context.Context) error {
			_, err := manager.LockWithPriority(ctx, project("a"), workspace, alice(), enhanced.PriorityHigh)
			return err
		},
		"LockWithTimeout": func(ctx context.Context) error {
			_, err := manager.LockWithTimeout(ctx, project("a"), workspace, alice(), enhanced.NoTimeout)
			return err
		},
		"GetQueuePosition": func(ctx context.Context) error {
			_, err := manager.GetQueuePosition(ctx, project("a"), workspace)
			return err
		},
		"CancelQueuedRequest": func(ctx context.Context) error {
			return manager.CancelQueuedRequest(ctx, project("a"), workspace, alice())
		},
		"GetStats":   func(ctx context.Context) error { _, err := manager.GetStats(ctx); return err },
		"GetHealth":  manager.GetHealth,
		"Acquire":    func(ctx context.Context) error { _, err := manager.Acquire(ctx, pullRequest(5, "a")); return err },
		"TryAcquire": func(ctx context.Context) error { _, _, err := manager.TryAcquire(ctx, pullRequest(5, "a")); return err },
		"Release": func(ctx context.Context) error {
			_, err := manager.Release(ctx, enhanced.ReleaseRequest{Resource: resource("a"), Force: true})
			return err
		},
		"ReleaseByPull": func(ctx context.Context) error {
			_, err := manager.ReleaseByPull(ctx, repo, 5, "user:alice")
			return err
		},
		"Start": manager.Start,
	}
}

func TestManagerWithAnInvalidConfiguration(t *testing.T) {
	t.Parallel()
	manager := newManagerOn(t, newBackend(t, nil), &enhanced.EnhancedConfig{ResolutionPolicy: "coin", MaxQueueSize: -1})
	for name, call := range managerCalls(manager) {
		err := call(t.Context())
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
		require.ErrorContains(t, err, "resolution_policy", name)
		require.ErrorContains(t, err, "max_queue_size", name)
	}
}

func TestManagerWithoutABackend(t *testing.T) {
	t.Parallel()
	manager := newManagerOn(t, nil, nil)
	for name, call := range managerCalls(manager) {
		err := call(t.Context())
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
		require.ErrorContains(t, err, "backend", name)
	}
	require.ErrorIs(t, manager.UpdateConfiguration(enabled()), enhanced.ErrInvalidRequest)
	require.Nil(t, manager.GetBackend())
}

func TestManagerCallsAfterTheirContextEnded(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	for name, call := range managerCalls(manager) {
		err := call(ended(t))
		require.ErrorIs(t, err, enhanced.ErrTimeout, name)
		require.ErrorIs(t, err, context.Canceled, name)
		require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown, name)
	}
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1, "nothing was done")
}

func TestManagerWithoutConfiguration(t *testing.T) {
	t.Parallel()
	manager := newManagerOn(t, newBackend(t, nil), nil)
	require.Equal(t, enhanced.DefaultConfig().DefaultTimeout, leaseOf(t, manager, "a"))
}
