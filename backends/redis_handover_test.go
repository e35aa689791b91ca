package backends_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	"github.com/stretchr/testify/require"
)

// A hand-over, from the release to the next caller's return, costs the server these
// commands, however many wait. docs/redis.md says what each is for.
func TestRedisCommandsOfAHandOver(t *testing.T) {
	t.Parallel()
	const many = 10_000
	oneServer := func(t *testing.T) redis.UniversalClient {
		t.Helper()
		return redistest.Start(t, redistest.Options{}).Client()
	}
	for name, c := range map[string]struct {
		connect func(t *testing.T) redis.UniversalClient
		copies  bool
		lease   time.Duration
		waiters []int
		want    int
	}{
		"with few waiters":        {oneServer, false, enhanced.NoTimeout, []int{10}, 10},
		"with many waiters":       {oneServer, false, enhanced.NoTimeout, []int{backendtest.Rounds(many)}, 10},
		"with leases and copies":  {oneServer, true, time.Hour, []int{10}, 13},
		"where stock has no keys": {aCluster, false, enhanced.NoTimeout, []int{10}, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, config := c.connect(t), queueOn()
			config.MaxQueueSize, config.PreserveLegacyFormat = many, c.copies
			b := openRedis(t, client, config)
			for _, waiters := range c.waiters {
				used := handOver(t, client, b, waiters, c.lease)
				t.Logf("%d waiters: %v", waiters, used)
				require.Equal(t, c.want, sum(used), "with %d waiters: %v", waiters, used)
			}
		})
	}
}

func aCluster(t *testing.T) redis.UniversalClient {
	t.Helper()
	return redistest.StartCluster(t, 3, 0, redistest.Options{}).Client()
}

// handOver has callers wait for a lock, lets it go from one to the next, and returns
// the commands of the cheapest time: looks at the resource, every two seconds, come
// between some.
func handOver(t *testing.T, client redis.UniversalClient, b *backends.RedisBackend, waiters int, lease time.Duration) (least map[string]int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	take := func(user string) (*enhanced.EnhancedLock, error) {
		r := by("org/app", ".", user)
		r.Timeout = lease
		return b.AcquireLock(ctx, r)
	}
	lock, err := take("ann")
	require.NoError(t, err)
	granted, done := make(chan *enhanced.EnhancedLock, waiters), make(chan error, waiters)
	for i := range waiters {
		go func() {
			lock, err := take(fmt.Sprint("u", i))
			if err == nil {
				granted <- lock
			}
			done <- err
		}()
	}
	backendtest.Eventually(t, "all wait", func() bool { return waiting(t, b) == waiters })
	const rounds = 8
	for range rounds {
		before := commandsByName(t, client)
		require.NoError(t, b.ReleaseLock(ctx, lock.ID))
		lock = <-granted
		used := commandsByName(t, client)
		maps.DeleteFunc(used, func(name string, n int) bool {
			used[name] = n - before[name]
			return n == before[name]
		})
		if least == nil || sum(used) < sum(least) {
			least = used
		}
	}
	cancel()
	for range waiters {
		if err := <-done; err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	backendtest.Eventually(t, "all have left", func() bool { return waiting(t, b) == 0 })
	return least
}

func sum(counts map[string]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

// commands is how many commands a server has done but for this.
func commands(t *testing.T, client *redis.Client) int {
	t.Helper()
	return sum(commandsByName(t, client))
}

// commandsByName counts what the servers have done but for this, those inside scripts
// included.
func commandsByName(t *testing.T, client redis.UniversalClient) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	count := func(ctx context.Context, node *redis.Client) error {
		info, err := node.Info(ctx, "commandstats").Result()
		if err != nil {
			return err
		}
		for line := range strings.Lines(info) {
			name, rest, found := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
			// What a cluster's servers and clients ask by themselves.
			if !found || slices.Contains([]string{"info", "ping", "command", "cluster|slots", "cluster|shards"}, name) {
				continue
			}
			calls, err := strconv.Atoi(rest[:strings.IndexByte(rest, ',')])
			if err != nil {
				return err
			}
			counts[name] += calls
		}
		return nil
	}
	cluster, is := client.(*redis.ClusterClient)
	if !is {
		require.NoError(t, count(t.Context(), client.(*redis.Client)))
		return counts
	}
	var mu sync.Mutex
	require.NoError(t, cluster.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return count(ctx, node)
	}))
	return counts
}

// The script for common cases hands over as the general ones do.
func TestRedisCommonHandsOverTheSame(t *testing.T) {
	t.Parallel()
	var both [2][]string
	for i, records := range []int{100_000, 999} { // the latter is for the general ones only
		client := redistest.Start(t, redistest.Options{}).Client()
		config := queueOn()
		config.LogMaxRecords = records
		b := openRedis(t, client, config)
		lock := func() *enhanced.EnhancedLock {
			lock, err := b.LookupLock(t.Context(), by("org/app", ".", "").Resource)
			require.NoError(t, err)
			return lock
		}
		pull := request(stockLock("org/app", 5, "."))
		pull.Timeout = enhanced.NoTimeout
		noted := by("org/app", ".", "eve")
		noted.Metadata = map[string]string{"note": "a note", "more": "of it"}
		requests := []*enhanced.EnhancedLockRequest{by("org/app", ".", "bob"), pull, noted, by("org/app", ".", "kim")}
		for n, r := range requests {
			r.ID, r.RequestedAt = fmt.Sprint("request ", n), time.Unix(1_800_000_000, 0)
		}
		holder := by("org/app", ".", "ann")
		holder.ID, holder.RequestedAt = "holder", requests[0].RequestedAt
		_, err := b.AcquireLock(t.Context(), holder)
		require.NoError(t, err)
		answers := waits(t, b, requests...)
		for range 3 { // by ID, by its owner, by force
			one := lock()
			switch one.Owner {
			case "user:ann":
				require.NoError(t, b.ReleaseLock(t.Context(), one.ID))
			case "user:bob":
				_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: one.Resource, Owner: one.Owner})
			default:
				_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: one.Resource, Force: true, Actor: "user:max", Reason: "a test"})
			}
			require.NoError(t, err)
			require.NoError(t, <-answers)
		}
		require.Equal(t, "user:eve", lock().Owner)
		// What is left has the process' name in it, which is another one each time.
		require.NoError(t, b.CancelRequest(t.Context(), requests[3].Resource, "user:kim", "user:kim"))
		requireLost(t, <-answers)
		require.NoError(t, client.HDel(t.Context(), repositoryKey("org/app", "state"), "alive").Err())
		both[i] = stored(t, client)
		backendtest.RequireSound(t, b)
	}
	require.Equal(t, both[1], both[0])
}

// A lock is not handed to a call whose process has died.
func TestRedisHandOverPassesOverADeadProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := queueOn()
	config.WaiterLiveness = shortLiveness
	b := openRedis(t, server.Client(), config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	proxy := redistest.StartProxy(t, server.Addr)
	client := cutOffClient(t, proxy)
	dead := waits(t, openRedis(t, client, config), by("org/app", ".", "bob"))
	alive := waits(t, b, by("org/app", ".", "kim"))
	proxy.Cut()
	backendtest.Eventually(t, "the first one counts as dead", func() bool { return waiting(t, b) == 1 })
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-alive)
	held, err := b.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, "user:kim", held.Owner)
	proxy.Heal()
	requireLost(t, <-dead)
}

// A hand-over that fails is none: nothing of it stays, and the lock is handed over
// once the damage is repaired.
func TestRedisHandOverFailsAsAWhole(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	for _, suffix := range []string{"deadlines", "log", "queue"} {
		lock, err := b.AcquireLock(t.Context(), by("org/app", suffix, "ann"))
		require.NoError(t, err)
		answers := waits(t, b, by("org/app", suffix, "bob"))
		key := repositoryKey("org/app", suffix)
		require.NoError(t, client.Rename(t.Context(), key, key+".away").Err())
		require.NoError(t, client.Set(t.Context(), key, "x", 0).Err())
		before := stored(t, client)
		require.ErrorContains(t, b.ReleaseLock(t.Context(), lock.ID), "WRONGTYPE", suffix)
		require.Equal(t, before, stored(t, client), suffix)
		require.NoError(t, client.Rename(t.Context(), key+".away", key).Err())
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		require.NoError(t, <-answers)
	}
	backendtest.RequireSound(t, b)
}
