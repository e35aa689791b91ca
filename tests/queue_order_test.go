package tests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Many who wait, give up and let leases run out are served in their order, and
// what they are told is what a lock can do.
func TestQueueOrderBolt(t *testing.T) {
	t.Parallel()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	b, err := backends.NewBoltBackend(file, shortQueues(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	testQueueOrder(t, b)
}

// So they are when they are in several processes, on one server and on a cluster.
func TestQueueOrderRedis(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(t *testing.T) redis.UniversalClient{
		"one server": func(t *testing.T) redis.UniversalClient {
			t.Helper()
			return redistest.Start(t, redistest.Options{}).Client()
		},
		"cluster": func(t *testing.T) redis.UniversalClient {
			t.Helper()
			return redistest.StartCluster(t, 3, 1, redistest.Options{}).Client()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := connect(t)
			var processes []enhanced.Backend
			for range 3 {
				b := backends.NewRedisBackend(client, shortQueues(), nil)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				processes = append(processes, b)
			}
			testQueueOrder(t, processes...)
		})
	}
}

// shortQueues is a configuration in which some give up.
func shortQueues() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.QueueTimeout = true, 60*time.Millisecond
	return config
}

// testQueueOrder judges what callers of several processes on one store are told.
func testQueueOrder(t *testing.T, processes ...enhanced.Backend) {
	t.Helper()
	b := processes[0]
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	recorder := history.NewRecorder()
	var mu sync.Mutex
	priorities := make(map[string]enhanced.Priority)
	var timeouts int
	backendtest.Together(12, func(worker int) {
		random := rand.New(rand.NewPCG(seed, uint64(worker))) //nolint:gosec // no secret
		client := recorder.Client(processes[worker%len(processes)])
		for round := range backendtest.Rounds(2_000) / 5 {
			r := &enhanced.EnhancedLockRequest{
				ID:       fmt.Sprintf("w%d-%d", worker, round),
				Resource: enhanced.ProjectResource(models.NewProject("org/app", "p"+strconv.Itoa(random.IntN(2)), ""), "default"),
				User:     models.User{Username: "w" + strconv.Itoa(worker)},
				Priority: enhanced.Priority(random.IntN(4)), Timeout: enhanced.NoTimeout,
			}
			if random.IntN(4) == 0 {
				r.Timeout = 10 * time.Millisecond
			}
			mu.Lock()
			priorities[r.ID] = r.Priority
			mu.Unlock()
			lock, err := client.AcquireInTurn(t.Context(), r)
			switch {
			case errors.Is(err, enhanced.ErrTimeout):
				mu.Lock()
				timeouts++
				mu.Unlock()
			case errors.Is(err, enhanced.ErrLockExists): // an own lease that has not ended yet
			case errors.Is(err, enhanced.ErrLockExpired) && r.Timeout != enhanced.NoTimeout: // before it was heard of
			case !assert.NoError(t, err):
				return
			case r.Timeout == enhanced.NoTimeout:
				assert.NoError(t, client.Release(t.Context(), lock))
			}
		}
	})
	h := recorder.History()
	h.Seed = seed
	verdict := h.Judge()
	logs, err := h.ReadLog(t.Context(), b)
	require.NoError(t, err)
	verdict.Problems = append(verdict.Problems, h.JudgeLog(logs)...)
	verdict.Problems = append(verdict.Problems, history.JudgeQueue(logs["org/app"], priorities)...)
	h.Keep(t, verdict)
	t.Logf("%d grants, %d in contention, %d gave up", verdict.Grants, verdict.Contended, timeouts)
	require.GreaterOrEqual(t, verdict.Contended, leastContended)
	require.Positive(t, timeouts, "nobody gave up; the run is void")
	violations, err := b.(enhanced.Verifier).Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}
