package tests

import (
	"context"
	"fmt"
	"net"
	"strconv"
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
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// every calls disturb again and again until stop is called, which returns how
// often it did.
func every(interval time.Duration, disturb func()) (stop func() int) {
	quit, count := make(chan struct{}), 0
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				disturb()
				count++
			}
		}
	})
	return func() int {
		close(quit)
		done.Wait()
		return count
	}
}

// A server is disturbed while clients work. Their outcomes may be unknown, but
// no answer is wrong, and in the end all is sound.
func TestRedisDisturbed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		// disturb is called every interval, and returns whether it did.
		disturb  func(ctx context.Context, admin *redis.Client, n int) bool
		interval time.Duration
		// proof answers how often somebody met the disturbance.
		proof string
		steps int // of each client
	}{
		"scripts are forgotten": {interval: 50 * time.Millisecond, proof: "errorstat_NOSCRIPT:count=", steps: 200,
			disturb: func(ctx context.Context, admin *redis.Client, _ int) bool { return admin.ScriptFlush(ctx).Err() == nil }},
		"connections are cut": {interval: 60 * time.Millisecond, proof: "", steps: 200,
			disturb: func(ctx context.Context, admin *redis.Client, _ int) bool {
				n, err := admin.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Result()
				return err == nil && n > 0
			}},
		"memory is full now and then": {interval: 30 * time.Millisecond, proof: "errorstat_OOM:count=", steps: 200,
			disturb: func(ctx context.Context, admin *redis.Client, n int) bool {
				return admin.ConfigSet(ctx, "maxmemory", strconv.Itoa(n%2)).Err() == nil
			}},
		// Who is not let in may not know whether it was heard, so more is unknown here.
		"connections are few": {args: []string{"--maxclients", "5"}, interval: 40 * time.Millisecond, proof: "rejected_connections:", steps: 120,
			disturb: func(ctx context.Context, admin *redis.Client, _ int) bool {
				n, err := admin.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Result()
				return err == nil && n > 0
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{Args: c.args})
			admin := server.Client()
			require.NoError(t, admin.Ping(t.Context()).Err()) // while there are connections
			fleet := newFleet(t, func() redis.UniversalClient {
				if c.args == nil {
					return server.Client()
				}
				// Each has one more than the server has room for.
				options := server.Options()
				options.MinIdleConns = 2
				client := redis.NewClient(options)
				t.Cleanup(func() { require.NoError(t, client.Close()) })
				return client
			}, nil)
			n, disturbed, done := 0, 0, 0
			stop := every(c.interval, func() {
				// On a busy machine few calls are made meanwhile. Were most of them cut
				// short, too many orders of them would have to be looked through.
				now := calls(admin)
				if now < done+leastUndisturbed {
					return
				}
				done = now
				if n++; c.disturb(context.Background(), admin, n) {
					disturbed++
				}
			})
			// What a store that is cut off answers is no fault of it.
			h, _ := history.Workload{Seed: uint64(time.Now().UnixNano()), Steps: c.steps}.Run(t.Context(), fleet.stores...) //nolint:gosec,errcheck // any number will do
			stop()
			require.Positive(t, disturbed)
			require.NoError(t, admin.ConfigSet(t.Context(), "maxmemory", "0").Err())
			require.NoError(t, admin.ConfigSet(t.Context(), "maxclients", "1000").Err())
			if c.proof != "" {
				info, err := admin.Info(t.Context(), "everything").Result()
				require.NoError(t, err)
				require.Regexp(t, c.proof+"[1-9]", info, "nobody met it; the run is void")
			}
			verdict := h.Judge()
			t.Logf("disturbed %d times: %d operations, %d contended grants, %d unknown outcomes", disturbed, len(h.Operations), verdict.Contended, verdict.Unknown)
			require.GreaterOrEqual(t, verdict.Contended, leastContended, "contended grants; the run is void")
			backendtest.Eventually(t, "the store is served again", func() bool { return fleet.stores[0].HealthCheck(t.Context()) == nil })
			fleet.judge(t, h, verdict)
		})
	}
}

// leastUndisturbed are what a server is asked to do between two disturbances.
const leastUndisturbed = 50

// calls are the scripts that a server has run so far, none if it does not say.
// Other commands are of clients that connect again.
func calls(admin *redis.Client) (n int) {
	info, err := admin.InfoMap(context.Background(), "commandstats").Result()
	if err != nil {
		return 0
	}
	for _, name := range []string{"cmdstat_evalsha", "cmdstat_evalsha_ro"} {
		var of int
		if _, err := fmt.Sscanf(info["Commandstats"][name], "calls=%d", &of); err == nil {
			n += of
		}
	}
	return n
}

// A repository moves from one shard to another and back while clients work.
func TestRedisSlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0, redistest.Options{})
	config := enhanced.DefaultConfig()
	config.RedisClusterMode = true
	fleet := newFleet(t, func() redis.UniversalClient { return cluster.Client() }, config)
	tag := "{" + enhanced.RepositoryTag("org/app") + "}"
	from := cluster.PrimaryOf(tag)
	to := cluster.Nodes[0]
	if to == from {
		to = cluster.Nodes[1]
	}
	moves := make(chan struct{})
	go func() {
		defer close(moves)
		for range 6 {
			cluster.MoveSlot(tag, from, to)
			from, to = to, from
		}
	}()
	h, err := history.Workload{Seed: uint64(time.Now().UnixNano()), Steps: 200}.Run(t.Context(), fleet.stores...) //nolint:gosec // any number will do
	<-moves
	redirects := 0
	for _, node := range cluster.Nodes {
		info, infoErr := node.Client().Info(t.Context(), "errorstats").Result()
		require.NoError(t, infoErr)
		redirects += strings.Count(info, "errorstat_MOVED") + strings.Count(info, "errorstat_ASK") + strings.Count(info, "errorstat_TRYAGAIN")
	}
	require.Positive(t, redirects, "nobody met the move; the run is void")
	verdict := h.Judge()
	if err != nil {
		verdict.Problems = append(verdict.Problems, err.Error())
	}
	t.Logf("%d operations, %d contended grants, %d unknown outcomes", len(h.Operations), verdict.Contended, verdict.Unknown)
	require.GreaterOrEqual(t, verdict.Contended, leastContended, "contended grants; the run is void")
	fleet.judge(t, h, verdict)
}

// The server's clock is set forward and back. Leases end early or late, which
// is what a lease is; what has none stays, and tokens only grow.
func TestRedisClockJumps(t *testing.T) {
	t.Parallel()
	clock := redistest.NewClock(t)
	server := redistest.Start(t, redistest.Options{Env: clock.Env()})
	b := backends.NewRedisBackend(server.Client(), nil, nil)
	defer func() { require.NoError(t, b.Close()) }()
	ctx := t.Context()
	take := func(path, user string, lease time.Duration) (*enhanced.EnhancedLock, bool) {
		lock, acquired, err := b.TryAcquireLock(ctx, &enhanced.EnhancedLockRequest{
			Resource: enhanced.ProjectResource(models.NewProject("org/app", path, ""), "default"),
			User:     models.User{Username: user}, Timeout: lease,
		})
		require.NoError(t, err)
		return lock, acquired
	}
	_, acquired := take("kept", "ann", enhanced.NoTimeout)
	require.True(t, acquired)
	first, acquired := take("leased", "ann", 30*time.Second)
	require.True(t, acquired)
	last := first.Version
	for i, jump := range []time.Duration{time.Hour, 5 * time.Second, -time.Hour, -5 * time.Second, 0, 2 * time.Hour} {
		clock.Set(jump)
		now, err := server.Client().Time(ctx).Result()
		require.NoError(t, err)
		require.InDelta(t, jump.Seconds(), time.Until(now).Seconds(), 5, "the clock was not set; the run is void")
		_, acquired := take("kept", "bob", enhanced.NoTimeout)
		require.False(t, acquired)
		lock, acquired := take("jump"+strconv.Itoa(i), "bob", 30*time.Second)
		require.True(t, acquired)
		require.Greater(t, lock.Version, last)
		last = lock.Version
		if lock, acquired := take("leased", "bob"+strconv.Itoa(i), 30*time.Second); acquired {
			require.Greater(t, lock.Version, last)
			last = lock.Version
		}
	}
	violations, err := b.Verify(ctx)
	require.NoError(t, err)
	for _, v := range violations {
		require.Equal(t, enhanced.RuleLogTime, v.Rule, "%+v", v)
	}
	require.NotEmpty(t, violations, "verify shows that the clock was set back")
}

// A request whose lock has ended is known again for ten minutes of the server's
// clock. One that is set further forward has it judged as a new one.
func TestRedisClockJumpForgetsRequests(t *testing.T) {
	t.Parallel()
	clock := redistest.NewClock(t)
	server := redistest.Start(t, redistest.Options{Env: clock.Env()})
	b := backends.NewRedisBackend(server.Client(), nil, nil)
	defer func() { require.NoError(t, b.Close()) }()
	ctx := t.Context()
	request := &enhanced.EnhancedLockRequest{
		ID: "late", Resource: enhanced.ProjectResource(models.NewProject("org/app", ".", ""), "default"), User: models.User{Username: "ann"},
	}
	lock, err := b.AcquireLock(ctx, request)
	require.NoError(t, err)
	require.NoError(t, b.ReleaseLock(ctx, lock.ID))
	for _, jump := range []time.Duration{0, 9 * time.Minute} {
		clock.Set(jump)
		_, err = b.CleanupExpiredLocks(ctx)
		require.NoError(t, err)
		_, err = b.AcquireLock(ctx, request)
		require.ErrorIs(t, err, enhanced.ErrLockExpired, "%s", jump)
	}
	clock.Set(20 * time.Minute)
	_, err = b.CleanupExpiredLocks(ctx)
	require.NoError(t, err)
	again, err := b.AcquireLock(ctx, request)
	require.NoError(t, err)
	require.Greater(t, again.Version, lock.Version)
}

// The clock is set forward and back while clients work. Locks without a lease do
// not go by it.
func TestRedisClockJumpsUnderLoad(t *testing.T) {
	t.Parallel()
	clock := redistest.NewClock(t)
	server := redistest.Start(t, redistest.Options{Env: clock.Env()})
	fleet := newFleet(t, func() redis.UniversalClient { return server.Client() }, nil)
	// Endings are remembered for ten minutes of that clock: it stays within them.
	jumps, n := []time.Duration{4 * time.Minute, 5 * time.Second, -4 * time.Minute, -5 * time.Second, 0, 3 * time.Minute}, 0
	stop := every(20*time.Millisecond, func() { clock.Set(jumps[n%len(jumps)]); n++ })
	h, err := history.Workload{Seed: uint64(time.Now().UnixNano()), Steps: 200, NoLeases: true}.Run(t.Context(), fleet.stores...) //nolint:gosec // any number will do
	require.Greater(t, stop(), len(jumps), "the clock was not set to all of them; the run is void")
	verdict := h.Judge()
	if err != nil {
		verdict.Problems = append(verdict.Problems, err.Error())
	}
	t.Logf("%d jumps: %d operations, %d contended grants, %d unknown outcomes", n, len(h.Operations), verdict.Contended, verdict.Unknown)
	require.GreaterOrEqual(t, verdict.Contended, leastContended, "contended grants; the run is void")
	// The log's times show the jumps, and nothing else may be wrong.
	require.True(t, fleet.judge(t, h, verdict, enhanced.RuleLogTime), "verify shows that the clock was set back")
}

// Everything is gone at once. Tokens still grow, and nobody's lock comes back.
func TestRedisFlushedUnderLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	admin := server.Client()
	stop := every(20*time.Millisecond, func() { _ = admin.FlushAll(context.Background()) })
	var mu sync.Mutex
	tokens, contended := make(map[int64]bool), newContention()
	backendtest.Together(8, func(i int) {
		b := backends.NewRedisBackend(server.Client(), nil, nil)
		last := int64(0)
		for range 300 {
			lock, acquired, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Resource: enhanced.ProjectResource(models.NewProject("org/app", ".", ""), "default"),
				User:     models.User{Username: "user" + strconv.Itoa(i)}, Timeout: time.Minute,
			})
			if err != nil {
				continue
			}
			mu.Lock()
			if contended.answer("org/app", acquired); !acquired {
				mu.Unlock()
				continue
			}
			if lock.Version <= last || tokens[lock.Version] {
				t.Errorf("token %d after %d", lock.Version, last)
			}
			tokens[lock.Version] = true
			mu.Unlock()
			last = lock.Version
			// Gone or not, an ID of before never makes a lock.
			_ = b.RefreshLock(t.Context(), lock.ID, time.Minute)
			_ = b.ReleaseLock(t.Context(), lock.ID)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	require.Positive(t, stop())
	t.Logf("%d grants, %d contended", len(tokens), contended.grants)
	require.GreaterOrEqual(t, contended.grants, leastContended, "contended grants; the run is void")
	b := backends.NewRedisBackend(admin, nil, nil)
	defer func() { require.NoError(t, b.Close()) }()
	lock, err := b.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
		Resource: enhanced.ProjectResource(models.NewProject("org/app", "last", ""), "default"),
		User:     models.User{Username: "ann"}, Timeout: time.Minute,
	})
	require.NoError(t, err)
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	require.NoError(t, admin.FlushAll(t.Context()).Err())
	require.ErrorIs(t, b.RefreshLock(t.Context(), lock.ID, time.Minute), enhanced.ErrLockNotFound)
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
}

// late is a connection whose replies take a while.
type late struct {
	net.Conn
	delay func() time.Duration
}

func (l late) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	<-time.After(l.delay())
	return n, err
}

// Replies come after their callers have given up, and have asked again.
func TestRedisLateReplies(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	var mu sync.Mutex
	slow := 0
	fleet := newFleet(t, func() redis.UniversalClient {
		options := server.Options()
		options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, network, addr)
			return late{conn, func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				if slow++; slow%5 == 0 {
					return 8 * time.Millisecond
				}
				return 0
			}}, err
		}
		client := redis.NewClient(options)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		return client
	}, nil)
	h, err := history.Workload{
		Seed: uint64(time.Now().UnixNano()), CancelWithin: 10 * time.Millisecond, //nolint:gosec // any number will do
	}.Run(t.Context(), fleet.stores...)
	verdict := h.Judge()
	if err != nil {
		verdict.Problems = append(verdict.Problems, err.Error())
	}
	t.Logf("%d operations, %d contended grants, %d unknown outcomes", len(h.Operations), verdict.Contended, verdict.Unknown)
	require.GreaterOrEqual(t, verdict.Contended, leastContended, "contended grants; the run is void")
	require.GreaterOrEqual(t, verdict.Unknown, leastUnknown, "unknown outcomes; the run is void")
	fleet.judge(t, h, verdict)
}
