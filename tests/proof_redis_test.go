package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/stretchr/testify/require"
)

// The proof of the bbolt store, with the clients spread over several backends,
// each with connections of its own, as replicas are.
func TestProofRedis(t *testing.T) {
	t.Parallel()
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Options{})
		proveRedis(t, func() redis.UniversalClient { return server.Client() })
	})
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		sentinel := redistest.StartSentinel(t, redistest.Options{})
		proveRedis(t, func() redis.UniversalClient { return sentinel.Client() })
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, 3, 1, redistest.Options{})
		proveRedis(t, func() redis.UniversalClient { return cluster.Client() })
	})
}

// replicas is how many backends share a Redis in these tests.
const replicas = 3

func proveRedis(t *testing.T, connect func() redis.UniversalClient) {
	t.Helper()
	fleet := newFleet(t, connect, nil)
	contended, unknown := 0, 0
	first := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	for round := range backendtest.Rounds(60) {
		fleet.empty(t)
		if round%2 == 1 {
			fleet.startManager(t)
		}
		delay := fleet.delay(t, round%3 == 0)
		seed := first + uint64(round) //nolint:gosec // small
		h, err := history.Workload{Seed: seed, Delay: delay}.Run(t.Context(), fleet.stores...)
		verdict := h.Judge()
		if err != nil {
			verdict.Problems = append(verdict.Problems, err.Error())
		}
		fleet.judge(t, h, verdict)
		contended += verdict.Contended
		unknown += verdict.Unknown
		if t.Failed() {
			return
		}
	}
	t.Logf("%d contended grants, %d unknown outcomes from seed %d", contended, unknown, first)
	require.GreaterOrEqual(t, contended, leastContended, "contended grants; the run is void")
	require.GreaterOrEqual(t, unknown, leastUnknown, "unknown outcomes; the run is void")
}

// fleet is several backends on one Redis.
type fleet struct {
	admin    redis.UniversalClient
	backends []*backends.RedisBackend
	stores   []enhanced.Backend
	config   *enhanced.EnhancedConfig
}

// newFleet makes backends that end with the test. connect makes a client that does.
func newFleet(t *testing.T, connect func() redis.UniversalClient, config *enhanced.EnhancedConfig) *fleet {
	t.Helper()
	f := &fleet{admin: connect(), config: config}
	for range replicas {
		b := backends.NewRedisBackend(connect(), config, nil)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		f.backends, f.stores = append(f.backends, b), append(f.stores, b)
	}
	return f
}

// empty removes everything from the store.
func (f *fleet) empty(t *testing.T) {
	t.Helper()
	flush := func(ctx context.Context, node *redis.Client) error { return node.FlushAll(ctx).Err() }
	switch client := f.admin.(type) {
	case *redis.ClusterClient:
		require.NoError(t, client.ForEachMaster(t.Context(), flush))
	case *redis.Client:
		require.NoError(t, flush(t.Context(), client))
	}
}

// delay has all backends keep resources closed for a while after the end of a lease, or
// not, and returns for how long.
func (f *fleet) delay(t *testing.T, on bool) time.Duration {
	t.Helper()
	config := enhanced.DefaultConfig()
	if on {
		config.UncleanReleaseDelay = uncleanDelay
	}
	for _, b := range f.backends {
		require.NoError(t, b.UpdateConfiguration(config))
	}
	return config.UncleanReleaseDelay
}

// startManager starts background work that ends with the test.
func (f *fleet) startManager(t *testing.T) {
	t.Helper()
	manager := enhanced.NewEnhancedLockManager(f.stores[0], f.config, nil)
	require.NoError(t, manager.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, manager.Stop(context.WithoutCancel(t.Context()))) })
}

// judge adds what the store itself says to a verdict, and keeps a bad one. It
// returns whether the store breaks a rule that it may.
func (f *fleet) judge(t *testing.T, h *history.History, verdict *history.Verdict, may ...string) (broken bool) {
	t.Helper()
	logs, err := h.ReadLog(t.Context(), f.stores[0])
	require.NoError(t, err)
	verdict.Problems = append(verdict.Problems, h.JudgeLog(logs)...)
	violations, err := f.backends[0].Verify(t.Context())
	require.NoError(t, err)
	for _, v := range violations {
		if slices.Contains(may, v.Rule) {
			broken = true
			continue
		}
		verdict.Problems = append(verdict.Problems, fmt.Sprintf("the store breaks %q at %s: %s", v.Rule, v.Record, v.Detail))
	}
	h.Keep(t, verdict, history.Evidence{Name: "log.json", Write: func(w io.Writer) error { return json.NewEncoder(w).Encode(logs) }})
	return broken
}
