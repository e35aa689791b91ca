package tests

import (
	"context"
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
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/stretchr/testify/require"
)

const (
	// workers is how many take locks while a server breaks.
	workers = 6
	// outage is the longest that a repository may be without service, where
	// servers are dead after a second. It takes two to four seconds; a machine
	// that is busy with other tests needs longer than promised.
	outage, promisedOutage = 20 * time.Second, 5 * time.Second
	// readTime is a client's limit on each read. A client that asks a frozen
	// node where the slots are waits that long before it asks another.
	readTime = time.Second
)

// broken are servers of which one is about to break.
type broken struct {
	// connect makes a client as replicas have it.
	connect func() redis.UniversalClient
	// stuck, when set, makes one that knows only the old primary.
	stuck func() redis.UniversalClient
	// fail breaks a server; failed reports whether another one has its place;
	// heal lets the old one come back; healed reports whether it obeys.
	fail   func()
	failed func() bool
	heal   func()
	healed func() bool
}

func (s *broken) run(t *testing.T, minReplicas int) losses {
	t.Helper()
	config := enhanced.DefaultConfig()
	config.RedisMinReplicasAck = minReplicas
	if _, cluster := s.connect().(*redis.ClusterClient); cluster {
		config.RedisClusterMode = true
	}
	l := &ledger{
		recorder: history.NewRecorder(),
		granted:  make(map[string][]ledgerGrant), asked: make(map[string]map[string]bool),
		refused: make(map[string]bool), latest: make(map[ledgerPlace]time.Time),
		last: make(map[ledgerPlace]error),
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var done sync.WaitGroup
	var all []*backends.RedisBackend
	start := func(worker int, client redis.UniversalClient) {
		b := backends.NewRedisBackend(client, config, nil)
		all = append(all, b)
		done.Go(func() { l.work(ctx, worker, b) })
	}
	for worker := range workers {
		start(worker, s.connect())
	}
	if s.stuck != nil {
		start(workers, s.stuck())
	}
	backendtest.Eventually(t, "everybody is served", func() bool { return l.served(workers, time.Time{}.Add(1)) })
	if s.stuck != nil {
		backendtest.Eventually(t, "the old primary serves the one that knows only it", func() bool { return l.servedIn(workers, 0) })
	}
	steady := time.Now().Add(300 * time.Millisecond)
	backendtest.Eventually(t, "some load", func() bool { return l.served(workers, steady) })
	l.breaks()
	s.fail()
	backendtest.Eventually(t, "another server takes over", s.failed)
	over := time.Now()
	defer func() {
		if t.Failed() {
			t.Log(l.unserved(workers, over))
		}
	}()
	backendtest.Eventually(t, "everybody is served after the failover", func() bool { return l.served(workers, over) })
	s.heal()
	backendtest.Eventually(t, "the old server obeys", s.healed)
	healed := time.Now()
	backendtest.Eventually(t, "everybody is served after the repair", func() bool { return l.served(workers, healed) })
	stop()
	done.Wait()
	for _, b := range all {
		require.NoError(t, b.Close())
	}
	b := backends.NewRedisBackend(s.connect(), config, nil)
	sum := l.compare(t, b)
	require.NoError(t, b.Close())
	t.Log(sum)
	require.GreaterOrEqual(t, sum.contended, leastContended, "contended grants; the run is void")
	longest := outage
	if backendtest.Rounds(2) == 2 {
		longest = promisedOutage // nothing else runs then
	}
	require.Less(t, sum.pause, longest)
	if minReplicas > 0 {
		require.Zero(t, sum.lost, "acknowledged grants that are lost")
		require.Zero(t, sum.back, "locks that are back after an acknowledged release")
		require.Zero(t, sum.twice, "locks acknowledged to two")
		l.judge(t)
	}
	return sum
}

// Without waiting for replicas, what the servers lose is counted and shown;
// with it, nothing acknowledged is lost.
func TestRedisFailover(t *testing.T) {
	t.Parallel()
	type fault struct {
		servers     func(t *testing.T) *broken
		minReplicas int
	}
	for setup, faults := range map[string]map[string]fault{
		"sentinel": {
			"killed":                 {sentinelKilled, 0},
			"killed, confirmed":      {sentinelKilled, 1},
			"frozen":                 {sentinelFrozen, 0},
			"frozen, confirmed":      {sentinelFrozen, 1},
			"partitioned":            {sentinelPartitioned, 0},
			"partitioned, confirmed": {sentinelPartitioned, 1},
		},
		"cluster": {
			"killed":            {clusterKilled(1), 0},
			"killed, confirmed": {clusterKilled(2), 1},
			"frozen":            {clusterFrozen(1), 0},
			"frozen, confirmed": {clusterFrozen(2), 1},
		},
	} {
		t.Run(setup, func(t *testing.T) {
			t.Parallel()
			for name, f := range faults {
				// One after the other: the servers of two are enough for a machine.
				t.Run(name, func(t *testing.T) { f.servers(t).run(t, f.minReplicas) })
			}
		})
	}
}

func failing() redistest.Options { return redistest.Options{DeadAfter: time.Second} }

func newBrokenSentinel(t *testing.T, s *redistest.Sentinel, addr string) *broken {
	t.Helper()
	primary := s.Primary.Client()
	return &broken{
		connect: func() redis.UniversalClient { return s.Client() },
		failed: func() bool {
			now, err := s.Current(t.Context())
			return err == nil && now != addr
		},
		healed: func() bool { return role(t, primary) == "slave" },
	}
}

func sentinelKilled(t *testing.T) *broken {
	t.Helper()
	s := redistest.StartSentinel(t, failing())
	b := newBrokenSentinel(t, s, s.Primary.Addr)
	b.fail = s.Primary.Kill
	b.heal = func() { require.NoError(t, s.Primary.Run()) }
	return b
}

func sentinelFrozen(t *testing.T) *broken {
	t.Helper()
	s := redistest.StartSentinel(t, failing())
	b := newBrokenSentinel(t, s, s.Primary.Addr)
	b.fail = func() { s.Primary.Signal(redistest.Stop) }
	b.heal = func() { s.Primary.Signal(redistest.Continue) }
	b.stuck = func() redis.UniversalClient { return s.Primary.Client() }
	return b
}

// One client is on the side of the old primary, all else is on the other side.
func sentinelPartitioned(t *testing.T) *broken {
	t.Helper()
	s, proxy := redistest.StartSentinelBehind(t, failing())
	b := newBrokenSentinel(t, s, proxy.Addr)
	b.fail = proxy.Cut
	b.heal = func() {
		require.Positive(t, proxy.Dropped.Load(), "nothing was cut off; the run is void")
		proxy.Heal()
	}
	b.stuck = func() redis.UniversalClient { return s.Primary.Client() }
	return b
}

func newBrokenCluster(t *testing.T, replicasEach int, limit time.Duration) (*broken, *redistest.Server) {
	t.Helper()
	c := redistest.StartCluster(t, 3, replicasEach, failing())
	// The node that has the first repository.
	victim := c.PrimaryOf("{" + enhanced.RepositoryTag(ledgerResource(0).Namespace) + "}")
	other := c.Nodes[0]
	if other == victim {
		other = c.Nodes[1]
	}
	old := victim.Client()
	return &broken{
		connect: func() redis.UniversalClient {
			options := c.Options()
			options.ReadTimeout = limit
			client := redis.NewClusterClient(options)
			t.Cleanup(func() { require.NoError(t, client.Close()) })
			return client
		},
		failed: func() bool {
			primaries, err := other.Primaries(t.Context())
			return err == nil && len(primaries) == 3 && !slices.Contains(primaries, victim.Addr)
		},
		healed: func() bool { return role(t, old) == "slave" },
	}, victim
}

func clusterKilled(replicasEach int) func(t *testing.T) *broken {
	return func(t *testing.T) *broken {
		t.Helper()
		b, victim := newBrokenCluster(t, replicasEach, 0) // the client library's default
		b.fail = victim.Kill
		b.heal = func() { require.NoError(t, victim.Run()) }
		return b
	}
}

func clusterFrozen(replicasEach int) func(t *testing.T) *broken {
	return func(t *testing.T) *broken {
		t.Helper()
		b, victim := newBrokenCluster(t, replicasEach, readTime)
		b.fail = func() { victim.Signal(redistest.Stop) }
		b.heal = func() { victim.Signal(redistest.Continue) }
		// It asks nobody where slots are now, and goes nowhere else when it is told.
		// It has to know the other nodes, which have keys that every client reads.
		slots, err := victim.Client().ClusterSlots(t.Context()).Result() //nolint:staticcheck // the library takes slots in this form only
		require.NoError(t, err)
		for i := range slots {
			slots[i].Nodes = slots[i].Nodes[:1] // no replica
		}
		connect := b.connect
		b.stuck = func() redis.UniversalClient {
			client, _ := connect().(*redis.ClusterClient)
			client.Options().ClusterSlots = func(context.Context) ([]redis.ClusterSlot, error) { return slices.Clone(slots), nil } // it sorts them
			client.Options().MaxRedirects = 0
			return client
		}
		return b
	}
}

// role is a server's, "" while it does not answer.
func role(t *testing.T, client *redis.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	info, err := client.Info(ctx, "replication").Result()
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(info, "role:")
	role, _, _ := strings.Cut(rest, "\r\n")
	return role
}
