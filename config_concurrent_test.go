package enhanced_test

import (
	"errors"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

// Concurrent updates must not leave manager and backend with different
// configurations.
func TestConcurrentUpdatesEndInOneConfiguration(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled())
	for round := range 2000 {
		errs := make([]error, 2)
		backendtest.Together(2, func(i int) {
			update := enabled()
			update.DefaultTimeout = time.Duration(i+1) * time.Minute
			errs[i] = manager.UpdateConfiguration(update)
		})
		require.NoError(t, errors.Join(errs...))
		path := "r" + itoa(round)
		require.Equal(t, backendLeaseOf(t, backend, path+"/backend"), leaseOf(t, manager, path+"/manager"))
	}
}
