package backends_test

import (
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
)

func TestBoltSets(t *testing.T) {
	t.Parallel()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	}
	backendtest.RunSets(t, newBackend)
}

func TestBoltSetsQueue(t *testing.T) {
	t.Parallel()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	}
	backendtest.RunSetsQueue(t, newBackend)
}
