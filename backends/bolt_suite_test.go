package backends_test

import (
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBoltSuite(t *testing.T) {
	backendtest.Run(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	})
}

func TestBoltQueue(t *testing.T) {
	t.Parallel()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	}
	backendtest.RunQueue(t, newBackend)
	backendtest.RunQueueMoves(t, newBackend)
	backendtest.RunQueueDetached(t, newBackend)
	backendtest.RunDeadlock(t, newBackend)
	backendtest.RunDeadlockDetection(t, newBackend)
}

// openBolt opens a store that is closed with the test.
func openBolt(t *testing.T, path string, config *enhanced.EnhancedConfig) *backends.BoltBackend {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}
