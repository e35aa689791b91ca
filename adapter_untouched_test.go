package enhanced_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// With an invalid config every call but those of the legacy database answers
// INVALID_REQUEST. Without a legacy database that includes pull status and
// command locks.
func TestStatusWithAnInvalidConfiguration(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, enabled())
	invalid := enabled()
	invalid.ResolutionPolicy = "coin"
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, invalid), backend, invalid, nil, nil)
	for method, call := range statusCalls(adapter) {
		require.ErrorIs(t, call(), enhanced.ErrInvalidRequest, method)
	}
}

// While Enabled is false stock's records stay as they are: that phase risks
// nothing.
func TestDisabledLeavesStocksRecordsAlone(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	stock := stockOn(t, file)
	for _, path := range []string{"a", "b"} {
		_, _, err := stock.TryLock(pullLock(5, path))
		require.NoError(t, err)
	}
	before := dump(t, file, stockBuckets()...)
	wanted, err := stock.GetLock(project("a"), workspace)
	require.NoError(t, err)

	config := enhanced.DefaultConfig() // Enabled: false
	backend := newBackendOn(t, file, config)
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, config), backend, config, stock, nil)
	got, err := adapter.GetLock(project("a"), workspace)
	require.NoError(t, err)
	require.Equal(t, wanted, got)
	require.Equal(t, before, dump(t, file, stockBuckets()...))
}

// The same through a look at the statistics.
func TestStatsWhileDisabledLeaveStocksRecordsAlone(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	config := enhanced.DefaultConfig()
	backend := newBackendOn(t, file, config)
	stock := stockOn(t, file)
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, config), backend, config, stock, nil)
	_, _, err := adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	before := dump(t, file, stockBuckets()...)
	_, err = adapter.GetEnhancedStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, dump(t, file, stockBuckets()...))
}
