package enhanced_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

// leaseOf locks a fresh path with the default lease and returns that lease, as
// the manager's configuration gives it.
func leaseOf(t *testing.T, manager *enhanced.EnhancedLockManager, path string) time.Duration {
	t.Helper()
	lock, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource(path), User: alice()})
	require.NoError(t, err)
	require.NotNil(t, lock.ExpiresAt)
	return lock.ExpiresAt.Sub(lock.AcquiredAt)
}

// backendLeaseOf is leaseOf of the backend alone.
func backendLeaseOf(t *testing.T, backend enhanced.Backend, path string) time.Duration {
	t.Helper()
	lock, err := backend.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource(path), User: alice()})
	require.NoError(t, err)
	require.NotNil(t, lock.ExpiresAt)
	return lock.ExpiresAt.Sub(lock.AcquiredAt)
}

func TestConstructorsCopyTheConfiguration(t *testing.T) {
	t.Parallel()
	config := enabled()
	backend := newBackend(t, config)
	manager := newManagerOn(t, backend, config)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, nil, nil)

	config.Enabled = false
	config.DefaultTimeout = time.Minute

	require.True(t, adapter.IsEnhancedModeEnabled())
	require.Equal(t, 30*time.Minute, leaseOf(t, manager, "a"))
	require.Equal(t, 30*time.Minute, backendLeaseOf(t, backend, "b"))
}

func TestUpdateConfigurationReachesAllLayers(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	backend := newBackendOn(t, file, enabled())
	manager := newManagerOn(t, backend, enabled())
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), stockOn(t, file), nil)

	update := enabled()
	update.Enabled = false
	update.DefaultTimeout = 7 * time.Minute
	require.NoError(t, adapter.UpdateConfiguration(update))
	update.DefaultTimeout = time.Minute // copied before

	require.False(t, adapter.IsEnhancedModeEnabled())
	require.Equal(t, 7*time.Minute, leaseOf(t, manager, "a"))
	require.Equal(t, 7*time.Minute, backendLeaseOf(t, backend, "b"))
}

func TestRefusedUpdateChangesNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]*enhanced.EnhancedConfig{
		"nil":                          nil,
		"invalid":                      {DefaultTimeout: 3 * time.Hour, MaxTimeout: time.Hour},
		"not possible on this backend": {DefaultTimeout: time.Minute, RedisClusterMode: true},
	}
	for name, update := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backend := newBackend(t, enabled())
			manager := newManagerOn(t, backend, enabled())
			adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)

			require.ErrorIs(t, adapter.UpdateConfiguration(update), enhanced.ErrInvalidRequest)
			require.ErrorIs(t, manager.UpdateConfiguration(update), enhanced.ErrInvalidRequest)
			require.ErrorIs(t, backend.UpdateConfiguration(update), enhanced.ErrInvalidRequest)

			require.True(t, adapter.IsEnhancedModeEnabled())
			require.Equal(t, 30*time.Minute, leaseOf(t, manager, "a"))
			require.Equal(t, 30*time.Minute, backendLeaseOf(t, backend, "b"))
		})
	}
}

// Switched off without a legacy database, nothing would be locked by anybody.
func TestSwitchingOffNeedsALegacyDatabase(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled())
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)
	update := enabled()
	update.Enabled, update.DefaultTimeout = false, 7*time.Minute
	err := adapter.UpdateConfiguration(update)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "enabled: false")
	require.ErrorContains(t, err, "no legacy database")

	require.True(t, adapter.IsEnhancedModeEnabled())
	require.NoError(t, adapter.Ping())
	require.Equal(t, 30*time.Minute, leaseOf(t, manager, "a"))
	require.Equal(t, 30*time.Minute, backendLeaseOf(t, backend, "b"))
	_, _, err = adapter.TryLock(pullLock(5, "c"))
	require.NoError(t, err)
}

func TestUpdateConfigurationMendsAnInvalidOne(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, nil)
	invalid := &enhanced.EnhancedConfig{Enabled: true, ResolutionPolicy: "coin"}
	manager := newManagerOn(t, backend, invalid)
	adapter := enhanced.NewLockingAdapter(manager, backend, invalid, nil, nil)
	_, err := manager.List(t.Context())
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)

	require.NoError(t, adapter.UpdateConfiguration(enabled()))
	_, err = manager.List(t.Context())
	require.NoError(t, err)
	_, err = adapter.List()
	require.NoError(t, err)
}

func TestUpdateConfigurationIsAtomicForCalls(t *testing.T) {
	t.Parallel()
	short, long := enabled(), enabled()
	short.DefaultTimeout, long.DefaultTimeout = time.Minute, 2*time.Hour
	lockDuringUpdates(t, short, long)
}

// lockDuringUpdates locks with the default lease while the configuration
// switches between two. Each lock must get the lease of one of them.
func lockDuringUpdates(t *testing.T, one, other *enhanced.EnhancedConfig) {
	t.Helper()
	manager := newManager(t, one)
	var locking atomic.Int32
	const lockers = 4
	locking.Store(lockers)
	errs := make([]error, lockers+1)
	backendtest.Together(lockers+1, func(i int) {
		if i == lockers {
			for locking.Load() > 0 {
				errs[i] = errors.Join(errs[i], manager.UpdateConfiguration(other), manager.UpdateConfiguration(one))
			}
			return
		}
		defer locking.Add(-1)
		for n := range 50 {
			lock, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{
				Resource: resource(fmt.Sprintf("%d/%d", i, n)), User: alice(),
			})
			if err != nil {
				errs[i] = err
				return
			}
			if lease := lock.ExpiresAt.Sub(lock.AcquiredAt); lease != one.DefaultTimeout && lease != other.DefaultTimeout {
				errs[i] = fmt.Errorf("lease %v is in neither configuration", lease)
				return
			}
		}
	})
	require.NoError(t, errors.Join(errs...))
}
