package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// deadCallers is how many callers the process has that is killed, deadName how
// their names begin.
const (
	deadCallers = 8
	deadName    = "dead"
)

// shortLives is a configuration in which what the dead have ends soon.
func shortLives() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.RedisMinReplicasAck = true, 1
	config.WaiterLiveness, config.QueueClaimTimeout = time.Second, 300*time.Millisecond
	return config
}

// caller takes one lock again and again, in turn, and sometimes leaves a place.
type caller struct {
	name   string
	served atomic.Int64
	mu     sync.Mutex
	tokens []int64 // of the grants that it was told of
}

func (c *caller) work(ctx context.Context, b *backends.RedisBackend) {
	random := rand.New(rand.NewPCG(rand.Uint64(), 0)) //nolint:gosec // no secret
	for round := 0; ctx.Err() == nil; round++ {
		priority := enhanced.Priority(random.IntN(4))
		r := &enhanced.EnhancedLockRequest{
			// JudgeQueue needs the priority of each request in the log.
			ID:       fmt.Sprintf("%s-%d-%d", c.name, round, priority),
			Resource: enhanced.ProjectResource(models.NewProject("org/app", ".", ""), "default"),
			User:     models.User{Username: c.name}, Priority: priority, Timeout: 500 * time.Millisecond,
		}
		var lock *enhanced.EnhancedLock
		var err error
		if random.IntN(4) == 0 {
			r.Pull, r.Detached = &models.PullRequest{Num: 1 + random.IntN(3)}, true
			var acquired bool
			if lock, acquired, err = b.TryAcquireLock(ctx, r); !acquired {
				lock = nil
			}
		} else {
			lock, err = b.AcquireLock(ctx, r)
		}
		if lock != nil {
			c.mu.Lock()
			c.tokens = append(c.tokens, lock.Version)
			c.mu.Unlock()
			if err = b.ReleaseLock(ctx, lock.ID); err == nil {
				c.served.Add(1)
			}
		}
		if errors.Is(err, enhanced.ErrBackend) || errors.Is(err, enhanced.ErrOutcomeUnknown) {
			pause := time.NewTimer(20 * time.Millisecond) // a server that is down is not asked all the time
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			pause.Stop()
		}
	}
}

// clusterOf begins the addresses of a cluster's nodes; others are of sentinels.
const clusterOf = "cluster:"

// runCallers is the process that is killed.
func runCallers(servers string) {
	nodes, isCluster := strings.CutPrefix(servers, clusterOf)
	addrs, config := strings.Split(nodes, ","), shortLives()
	config.RedisClusterMode = isCluster
	var client redis.UniversalClient = redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: redistest.SentinelMaster, SentinelAddrs: addrs, DisableIdentity: true,
	})
	if isCluster {
		client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, DisableIdentity: true})
	}
	b := backends.NewRedisBackend(client, config, nil)
	backendtest.Together(deadCallers, func(i int) {
		(&caller{name: deadName + strconv.Itoa(i)}).work(context.Background(), b)
	})
}

// A process that holds the lock, with others of its calls waiting, is killed, and
// then the primary, while those of two more wait. All of these are served, in
// their order.
func TestQueueOrderWhileServersAreKilled(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *killable{"sentinel": killableSentinel, "cluster": killableCluster} {
		t.Run(name, func(t *testing.T) {
			for range backendtest.Rounds(20) {
				testQueueKills(t, start(t))
			}
		})
	}
}

// killable are servers of which the primary is killed.
type killable struct {
	connect func() redis.UniversalClient
	config  *enhanced.EnhancedConfig
	// servers are their addresses, for runCallers.
	servers string
	primary *redistest.Server
	// failed reports whether another server has the primary's place.
	failed func() bool
}

func killableSentinel(t *testing.T) *killable {
	t.Helper()
	s := redistest.StartSentinel(t, failing())
	return &killable{
		connect: func() redis.UniversalClient { return s.Client() }, config: shortLives(),
		servers: strings.Join(s.Options().SentinelAddrs, ","), primary: s.Primary,
		failed: func() bool {
			now, err := s.Current(t.Context())
			return err == nil && now != s.Primary.Addr
		},
	}
}

// killableCluster has six nodes. A primary has one replica, so nothing is confirmed
// after it has died, until it is back.
func killableCluster(t *testing.T) *killable {
	t.Helper()
	c := redistest.StartCluster(t, 3, 1, failing())
	victim := c.PrimaryOf("{" + enhanced.RepositoryTag("org/app") + "}")
	witness := c.Nodes[0]
	if witness == victim {
		witness = c.Nodes[1]
	}
	k := &killable{config: shortLives(), servers: clusterOf + strings.Join(c.Addrs(), ","), primary: victim}
	k.config.RedisClusterMode = true
	k.connect = func() redis.UniversalClient {
		options := c.Options()
		options.ReadTimeout = readTime
		client := redis.NewClusterClient(options)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		return client
	}
	k.failed = func() bool {
		primaries, err := witness.Primaries(t.Context())
		if err != nil || len(primaries) != 3 || slices.Contains(primaries, victim.Addr) {
			return false
		}
		require.NoError(t, victim.Run())
		return true
	}
	return k
}

func testQueueKills(t *testing.T, s *killable) {
	t.Helper()
	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, s.servers)
	child.Env = append(os.Environ(), childMode+"=callers")
	child.Stderr = os.Stderr
	require.NoError(t, child.Start())
	kill := sync.OnceFunc(func() {
		_ = child.Process.Kill() //nolint:errcheck // it may have ended
		_ = child.Wait()         //nolint:errcheck // it was killed
	})
	defer kill()

	callers, stop := startCallers(t, s.connect, s.config)
	defer stop()
	b := backends.NewRedisBackend(s.connect(), s.config, nil)
	defer func() { require.NoError(t, b.Close()) }()
	backendtest.Eventually(t, "the one that is killed holds the lock, and waits", func() bool {
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		waiting := 0
		for _, r := range status.PendingRequests {
			if strings.HasPrefix(r.User.Username, deadName) && !r.Detached {
				waiting++
			}
		}
		return waiting >= 4 && len(locks) == 1 && locks[0].Owner[:len("user:"+deadName)] == "user:"+deadName
	})
	kill()
	requireServed(t, callers, "after a process was killed")
	s.primary.Kill()
	backendtest.Eventually(t, "another server takes over", s.failed)
	requireServed(t, callers, "after the primary was killed")
	stop()
	requireNobodyWaits(t, b)
	judged := judgeCallers(t, b, callers)
	require.Positive(t, judged.ended, "no lease of the killed process has ended; the run is void")
	require.Positive(t, judged.passedOver, "nobody was passed over; the run is void")
}

// ofTheDead counts what a log has of the process that was killed.
type ofTheDead struct {
	ended      int // leases
	passedOver int // requests
}

// judgeCallers judges the log of the server that has the repository in the end.
func judgeCallers(t *testing.T, b *backends.RedisBackend, callers []*caller) (dead ofTheDead) {
	t.Helper()
	var records []*enhanced.LogRecord
	for after, more := uint64(0), true; more; {
		page, err := b.ReadLog(t.Context(), "org/app", after, 10_000)
		require.NoError(t, err)
		records, more = append(records, page.Records...), page.More
		after = records[len(records)-1].Sequence
	}
	priorities := make(map[string]enhanced.Priority)
	granted := make(map[int64]bool)
	holder := int64(0)
	for _, r := range records {
		if at := strings.LastIndexByte(r.RequestID, '-'); at >= 0 {
			priority, err := strconv.Atoi(r.RequestID[at+1:])
			require.NoError(t, err)
			priorities[r.RequestID] = enhanced.Priority(priority)
		}
		isDead := strings.HasPrefix(r.Event().Owner, "user:"+deadName)
		switch {
		case r.Before == nil && r.After != nil:
			require.Zero(t, holder, "record %d: %d holds it", r.Sequence, holder)
			holder, granted[r.Token] = r.Token, true
		case r.Before != nil && r.After == nil:
			require.Equal(t, holder, r.Token, "record %d", r.Sequence)
			holder = 0
			if isDead && r.Type == enhanced.EventTimeout {
				dead.ended++
			}
		case r.Type == enhanced.EventCancelled && isDead && r.Actor == enhanced.SystemStore:
			dead.passedOver++
		}
	}
	t.Logf("%d records, %d grants; of a killed process: %+v", len(records), len(granted), dead)
	for _, c := range callers {
		for _, token := range c.tokens {
			require.True(t, granted[token], "%s was told of token %d, which is lost", c.name, token)
		}
	}
	require.Empty(t, history.JudgeQueue(records, priorities))
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	return dead
}
