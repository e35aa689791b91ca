package tests

import (
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/redis"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The same as TestDifferentialBolt with a Redis on each side. Stock lists in the
// order of SCAN, which is any.
func TestDifferentialRedis(t *testing.T) {
	stockServer, ourServer := redistest.Start(t, redistest.Options{}), redistest.Start(t, redistest.Options{})
	stockClient, ourClient := stockServer.Client(), ourServer.Client()
	run := differentialRun{
		seeds: backendtest.Rounds(differentialSeeds), sequences: backendtest.Rounds(sequencesPerSeed) + 1, steps: 100, least: 50,
		open: func(t *rapid.T, _ string, listed map[string]int) *differential {
			require.NoError(t, stockClient.FlushDB(t.Context()).Err())
			require.NoError(t, ourClient.FlushDB(t.Context()).Err())
			stock, err := redis.NewWithClient(stockClient, "", "")
			require.NoError(t, err)
			config := enhanced.DefaultConfig()
			config.Enabled = true
			backend := backends.NewRedisBackend(ourClient, config, nil)
			ours := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, nil, nil)
			return &differential{
				stock:  differentialSide{stock, locking.NewClient(stock), func() error { return nil }},
				ours:   differentialSide{ours, locking.NewClient(ours), backend.Close},
				listed: listed, long: listedLongRedis, unordered: true,
			}
		},
	}
	if backendtest.Rounds(2) == 2 {
		run.steps, run.least, run.expected = callsPerSequence, leastCalls, append(listedDifferences(), listedLongRedis)
	}
	run.run(t)
}
