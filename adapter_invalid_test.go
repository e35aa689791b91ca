package enhanced_test

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// enhancedCalls returns the adapter's methods beyond db.Database.
func enhancedCalls(t *testing.T, adapter *enhanced.LockingAdapter) map[string]func() error {
	t.Helper()
	return map[string]func() error{
		"LockWithPriority": func() error {
			_, err := adapter.LockWithPriority(t.Context(), project("a"), workspace, alice(), enhanced.PriorityHigh)
			return err
		},
		"LockWithTimeout": func() error {
			_, err := adapter.LockWithTimeout(t.Context(), project("b"), workspace, alice(), time.Minute)
			return err
		},
		"GetQueuePosition": func() error { _, err := adapter.GetQueuePosition(t.Context(), project("a"), workspace); return err },
		"GetEnhancedStats": func() error {
			s, err := adapter.GetEnhancedStats(t.Context())
			require.NotNil(t, s)
			return err
		},
		"HealthCheck": func() error { return adapter.HealthCheck(t.Context()) },
		"Ping":        adapter.Ping,
	}
}

func TestAdapterThatCannotWork(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled())
	invalid := enabled()
	invalid.ResolutionPolicy, invalid.MaxQueueSize = "coin", -1

	tests := map[string]struct {
		adapter *enhanced.LockingAdapter
		named   []string
	}{
		"no manager":            {enhanced.NewLockingAdapter(nil, backend, enabled(), nil, nil), []string{"manager is nil"}},
		"no backend":            {enhanced.NewLockingAdapter(manager, nil, enabled(), nil, nil), []string{"backend is nil"}},
		"neither":               {enhanced.NewLockingAdapter(nil, nil, enabled(), nil, nil), []string{"manager is nil", "backend is nil"}},
		"invalid configuration": {enhanced.NewLockingAdapter(manager, backend, invalid, nil, nil), []string{`resolution_policy: "coin"`, "max_queue_size: -1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := lockCalls(test.adapter)
			for method, call := range enhancedCalls(t, test.adapter) {
				calls[method] = call
			}
			for method, call := range calls {
				err := call()
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest, method)
				for _, part := range test.named {
					require.ErrorContains(t, err, part, method)
				}
			}
		})
	}
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
}

func TestAdapterWithoutItsPartsKeepsServingTheLegacyDatabase(t *testing.T) {
	t.Parallel()
	adapter := enhanced.NewLockingAdapter(nil, nil, &enhanced.EnhancedConfig{Backend: "etcd"}, stockOn(t, openFile(t)), nil)
	for method, call := range lockCalls(adapter) {
		require.NoError(t, call(), method)
	}
	for method, call := range statusCalls(adapter) {
		require.NoError(t, call(), method)
	}
	adapter.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) {})
	require.Nil(t, adapter.Manager())
	require.ErrorIs(t, adapter.UpdateConfiguration(enabled()), enhanced.ErrInvalidRequest)
	require.False(t, adapter.IsEnhancedModeEnabled())
	require.NoError(t, adapter.Close())
}

func TestAdapterWithoutAnyStatusStore(t *testing.T) {
	t.Parallel()
	adapter := enhanced.NewLockingAdapter(nil, nil, nil, nil, nil)
	for method, call := range statusCalls(adapter) {
		require.ErrorIs(t, call(), enhanced.ErrInvalidRequest, method)
	}
	require.NoError(t, adapter.Close())
}

func TestAdapterWithoutConfiguration(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, nil)
	manager := newManagerOn(t, backend, nil)
	adapter := enhanced.NewLockingAdapter(manager, backend, nil, nil, nil)
	require.False(t, adapter.IsEnhancedModeEnabled(), "off by default")
	require.Same(t, manager, adapter.Manager())
}
