package tests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A repository moves between the shards of a cluster, key by key, while the calls
// of two processes wait for one lock and hand it over. All of them are served
// meanwhile, none twice, in their order.
func TestQueueOrderWhileSlotsMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 1, redistest.Options{})
	config := shortLives()
	config.RedisClusterMode, config.RedisMinReplicasAck, config.QueueClaimTimeout = true, 0, 30*time.Millisecond
	connect := func() redis.UniversalClient { return cluster.Client() }
	callers, stop := startCallers(t, connect, config)
	b := backends.NewRedisBackend(connect(), config, nil)
	defer func() { require.NoError(t, b.Close()) }()

	tag := "{" + enhanced.RepositoryTag("org/app") + "}"
	at := slices.Index(cluster.Nodes[:3], cluster.PrimaryOf(tag))
	before, moves := servedOf(callers), 0
	for range backendtest.Rounds(20) {
		backendtest.Eventually(t, "everybody is served while it moves, and some were sent on", func() bool {
			to := (at + 1) % 3
			cluster.MoveSlot(tag, cluster.Nodes[at], cluster.Nodes[to])
			at, moves = to, moves+1
			return moves >= 3 && servedSince(callers, before) && redirectsOf(t, cluster) > 0
		})
		before = servedOf(callers)
	}
	requireServed(t, callers, "where it has moved to")
	stop()
	requireNobodyWaits(t, b)
	t.Logf("%d moves, %d requests were sent on", moves, redirectsOf(t, cluster))
	judgeCallers(t, b, callers)
}

// redirectsOf is how many requests a cluster has sent elsewhere, or to try again.
func redirectsOf(t *testing.T, cluster *redistest.Cluster) (redirects int) {
	t.Helper()
	for _, node := range cluster.Nodes {
		info, err := node.Client().Info(t.Context(), "errorstats").Result()
		require.NoError(t, err)
		for _, kind := range []string{"MOVED", "ASK", "TRYAGAIN"} {
			_, counted, _ := strings.Cut(info, "errorstat_"+kind+":count=")
			var count int
			if _, err := fmt.Sscanf(counted, "%d", &count); err == nil {
				redirects += count
			}
		}
	}
	return redirects
}

// startCallers starts two processes' worth of callers, which work until they are
// stopped.
func startCallers(t *testing.T, connect func() redis.UniversalClient, config *enhanced.EnhancedConfig) (callers []*caller, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	var processes []*backends.RedisBackend
	for i := range 2 {
		b := backends.NewRedisBackend(connect(), config, nil)
		processes = append(processes, b)
		for k := range 3 {
			c := &caller{name: fmt.Sprintf("caller%d%d", i, k)}
			callers = append(callers, c)
			done.Go(func() { c.work(ctx, b) })
		}
	}
	stop = func() {
		cancel()
		done.Wait()
	}
	t.Cleanup(func() {
		stop()
		for _, b := range processes {
			require.NoError(t, b.Close())
		}
	})
	return callers, stop
}

func servedOf(callers []*caller) []int64 {
	served := make([]int64, len(callers))
	for i, c := range callers {
		served[i] = c.served.Load()
	}
	return served
}

// servedSince reports whether everybody has had the lock once more.
func servedSince(callers []*caller, before []int64) bool {
	for i, c := range callers {
		if c.served.Load() == before[i] {
			return false
		}
	}
	return true
}

func requireServed(t *testing.T, callers []*caller, when string) {
	t.Helper()
	before := servedOf(callers)
	backendtest.Eventually(t, "everybody is served "+when, func() bool { return servedSince(callers, before) })
}

func requireNobodyWaits(t *testing.T, b *backends.RedisBackend) {
	t.Helper()
	backendtest.Eventually(t, "nobody waits any more", func() bool {
		_, err := b.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		return status.Size == 0 && len(locks) == 0
	})
}
