package tests

import (
	"fmt"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/redis"
	"github.com/stretchr/testify/require"
)

// stockRedisModes is a fleet whose legacy database is stock's on Redis, with our
// store on another server or on the same one.
func stockRedisModes(t *testing.T, oneServer bool) *modes {
	t.Helper()
	server := redistest.Start(t, redistest.Options{})
	stock, err := redis.NewWithClient(server.Client(), "", "")
	require.NoError(t, err)
	if !oneServer {
		server = redistest.Start(t, redistest.Options{})
	}
	f := &modes{legacy: stock, mirrored: oneServer, newBackend: func(config *enhanced.EnhancedConfig) enhanced.Backend {
		return backends.NewRedisBackend(server.Client(), config, nil)
	}}
	return f.start(t, 2)
}

// Stock's database on Redis grants a lock twice now and then. So it does wherever
// it decides: alone, and in the modes off, shadow and read. What the store decides is
// granted once, before that and after going back. What is held stays so throughout.
func TestModesWithStocksRedis(t *testing.T) {
	t.Parallel()
	// A switch under this load takes some tries, since a lock is being taken at most moments.
	operations, workers := int64(backendtest.Rounds(2000)), 3
	t.Run("stock alone", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Options{})
		var replicas []db.Database
		for range 2 {
			stock, err := redis.NewWithClient(server.Client(), "", "")
			require.NoError(t, err)
			replicas = append(replicas, stock)
		}
		load := startPullLoad(t, workers, replicas...)
		for load.counts.twice.Load() == 0 || load.counts.operations.Load() < operations {
			load.requireFine(t, operations)
		}
		load.stop()
		t.Log(load.since(pullCounted{}))
	})
	path := []enhanced.Mode{
		enhanced.ModeFull, enhanced.ModeRead, enhanced.ModeShadow, enhanced.ModeOff,
		enhanced.ModeShadow, enhanced.ModeRead, enhanced.ModeFull,
	}
	for _, oneServer := range []bool{false, true}[:backendtest.Rounds(2)] {
		t.Run(fmt.Sprintf("one server %t", oneServer), func(t *testing.T) {
			t.Parallel()
			f := stockRedisModes(t, oneServer)
			take(t, f.adapters[0], lockOf("org/held", 1, "."))
			load := startPullLoad(t, workers, f.adapters[0], f.adapters[1])
			for _, mode := range path {
				before, start := load.counted(), time.Now()
				f.set(t, mode)
				load.requireFine(t, int64(4*workers)) // what began before has ended
				t.Logf("to %s in %s: %s", mode, time.Since(start).Round(time.Millisecond), load.since(before))
				before = load.counted()
				load.requireFine(t, operations)
				t.Logf("in %s: %s", mode, load.since(before))
				if mode == enhanced.ModeFull {
					require.Zero(t, load.since(before).twice, "granted twice")
				}
				refused(t, f.adapters[1], lockOf("org/held", 2, "."), 1)
			}
			load.stop()
			require.NoError(t, load.err())
			backendtest.RequireSound(t, f.backend)
		})
	}
}
