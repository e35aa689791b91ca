package tests

import (
	"path/filepath"
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// TestPhasesOnACluster goes through the specification's four phases with stock's file
// and a Redis cluster as the store, which migrate fills before, and from which it fills
// a file of stock's at the end. Up to phase 4 the way back is the configuration.
func TestPhasesOnACluster(t *testing.T) {
	t.Parallel()
	if backendtest.Rounds(2) != 2 {
		t.Skipf("to build the program and to start a cluster takes long; set %s=1", backendtest.FullRounds)
	}
	program := filepath.Join(t.TempDir(), "atlantis-locks")
	runIn(t, "..", "go", "build", "-o", program, "./cmd/atlantis-locks")
	cluster := redistest.StartCluster(t, 3, 0, redistest.Options{})
	address := "redis://" + strings.Join(cluster.Addrs(), ",")
	dir, back := t.TempDir(), t.TempDir()
	before := stockBolt(t, dir)
	take(t, before, lockOf("org/held", 50, "before"))
	before.close()
	runIn(t, dir, program, "migrate", "--from", "boltdb:atlantis.db", "--to", address)

	m := newMigrating(t, filepath.Join(dir, "atlantis.db"), func(_ *bbolt.DB, config *enhanced.EnhancedConfig) enhanced.Backend {
		config.RedisClusterMode, config.FallbackSingleReplica = true, true
		return backends.NewRedisBackend(cluster.Client(), config, nil)
	})
	m.held = []string{"before"}
	on := func(c *enhanced.EnhancedConfig) { c.Enabled = true }
	off := func(c *enhanced.EnhancedConfig) { c.Enabled, c.LegacyFallback = false, true }
	const beside = "legacy format" // stock at work beside it, which only one store for both can have
	m.phase("phase 1", func(*enhanced.EnhancedConfig) {})
	m.requireCompatibleNow(beside)
	m.phase("phase 2", on)
	m.requireCompatibleNow(beside)
	m.phase("phase 3, queue", func(c *enhanced.EnhancedConfig) { c.EnablePriorityQueue, c.MaxQueueSize = true, 1000 })
	m.requireQueue(true)
	m.phase("phase 3, retry", func(c *enhanced.EnhancedConfig) { c.EnableRetry, c.MaxRetryAttempts = true, 3 })
	m.phase("phase 3, deadlocks", func(c *enhanced.EnhancedConfig) { c.EnableDeadlockDetection = true })
	m.requireDeadlockEnds()
	m.phase("back from phase 3", off)
	m.requireCompatibleNow(beside)
	m.phase("phase 3 again", on)
	m.alone = true
	m.phase("phase 4", func(c *enhanced.EnhancedConfig) { c.LegacyFallback = false })
	m.requireCompatibleNow(beside)
	m.stop()

	runIn(t, back, program, "migrate", "--from", address, "--to", "stock+boltdb:atlantis.db")
	after := stockBolt(t, back)
	defer after.close()
	m.requireHeld(after)
	released, err := after.UnlockByPull("org/held", 50)
	require.NoError(t, err)
	require.Len(t, released, len(m.held))
	locks, err := after.List()
	require.NoError(t, err)
	require.Empty(t, locks)
}
