package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// badNetwork is one kind of fault.
type badNetwork struct {
	// network is how it is all the time.
	network redistest.Network
	// disturb is called every 60 ms, and heal 30 ms after each. Nil for none.
	disturb, heal func(*redistest.Proxy)
	// met reports whether somebody has met it.
	met func(*redistest.Proxy, *history.Verdict) bool
}

// oneIn has one piece in n take long, and others less.
func oneIn(n int, long, others time.Duration) func() time.Duration {
	return func() time.Duration {
		if rand.IntN(n) == 0 { //nolint:gosec // not for secrets
			return long
		}
		return rand.N(others) //nolint:gosec // not for secrets
	}
}

func badNetworks() map[string]badNetwork {
	dropped := func(p *redistest.Proxy, v *history.Verdict) bool { return p.Dropped.Load() > 0 && v.Unknown > 0 }
	late := func(p *redistest.Proxy, v *history.Verdict) bool { return p.Late.Load() > 0 && v.Unknown > 0 }
	unknown := func(_ *redistest.Proxy, v *history.Verdict) bool { return v.Unknown > 0 }
	heal := func(p *redistest.Proxy) {
		p.Be(redistest.Network{})
		p.Heal()
	}
	return map[string]badNetwork{
		"delays":     {network: redistest.Network{Delay: oneIn(20, 30*time.Millisecond, 4*time.Millisecond)}, met: unknown},
		"throttles":  {network: redistest.Network{BytesPerSecond: 200_000}, met: unknown},
		"breaks":     {disturb: (*redistest.Proxy).Break, heal: heal, met: unknown},
		"partitions": {disturb: (*redistest.Proxy).Cut, heal: heal, met: dropped},
		"loses requests": {
			disturb: func(p *redistest.Proxy) { p.Be(redistest.Network{LosesRequests: true}) }, heal: heal, met: dropped,
		},
		"loses replies": {
			disturb: func(p *redistest.Proxy) { p.Be(redistest.Network{LosesReplies: true}) }, heal: heal, met: dropped,
		},
		"delivers late": {network: redistest.Network{Delay: oneIn(10, 150*time.Millisecond, time.Millisecond)}, met: late},
	}
}

// behindProxy is a configuration of processes that give up on a store soon.
func behindProxy() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.QueueTimeout = true, 200*time.Millisecond
	config.OperationTimeout, config.CircuitOpenTimeout = 400*time.Millisecond, 20*time.Millisecond
	config.WaiterLiveness = 500 * time.Millisecond
	return config
}

// bounded is a store whose callers wait for OperationTimeout at most.
type bounded struct {
	enhanced.Backend
	limit time.Duration
	// over is how far beyond that the longest call has gone.
	over *atomic.Int64
}

func (b bounded) call(ctx context.Context, call func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	start := time.Now()
	call(ctx)
	over := int64(time.Since(start) - b.limit)
	for old := b.over.Load(); over > old && !b.over.CompareAndSwap(old, over); old = b.over.Load() {
	}
}

func (b bounded) TryAcquireLock(ctx context.Context, r *enhanced.EnhancedLockRequest) (lock *enhanced.EnhancedLock, acquired bool, err error) {
	b.call(ctx, func(ctx context.Context) { lock, acquired, err = b.Backend.TryAcquireLock(ctx, r) })
	return lock, acquired, err
}

func (b bounded) AcquireLock(ctx context.Context, r *enhanced.EnhancedLockRequest) (lock *enhanced.EnhancedLock, err error) {
	b.call(ctx, func(ctx context.Context) { lock, err = b.Backend.AcquireLock(ctx, r) })
	return lock, err
}

func (b bounded) ReleaseLock(ctx context.Context, id string) (err error) {
	b.call(ctx, func(ctx context.Context) { err = b.Backend.ReleaseLock(ctx, id) })
	return err
}

func (b bounded) Release(ctx context.Context, r enhanced.ReleaseRequest) (lock *enhanced.EnhancedLock, err error) {
	b.call(ctx, func(ctx context.Context) { lock, err = b.Backend.Release(ctx, r) })
	return lock, err
}

func (b bounded) RefreshLock(ctx context.Context, id string, extension time.Duration) (err error) {
	b.call(ctx, func(ctx context.Context) { err = b.Backend.RefreshLock(ctx, id, extension) })
	return err
}

func (b bounded) LookupLock(ctx context.Context, r enhanced.ResourceIdentifier) (lock *enhanced.EnhancedLock, err error) {
	b.call(ctx, func(ctx context.Context) { lock, err = b.Backend.LookupLock(ctx, r) })
	return lock, err
}

// Two processes work through a network that delays, throttles, breaks, loses, or
// delivers what nobody waits for any more. Nobody is answered what one lock after
// another could not have answered, nobody waits beyond his time, and the store is
// sound.
func TestRedisThroughABadNetwork(t *testing.T) {
	t.Parallel()
	for name, bad := range badNetworks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			proxy := redistest.StartProxy(t, server.Addr)
			config := behindProxy()
			judges := newFleet(t, func() redis.UniversalClient { return server.Client() }, config)
			var over atomic.Int64
			stores := make([]enhanced.Backend, 2)
			for i := range stores {
				b := behind(t, server, proxy, config)
				// While the network is good.
				backendtest.Eventually(t, "the store is served", func() bool { return b.HealthCheck(t.Context()) == nil })
				stores[i] = bounded{b, config.OperationTimeout, &over}
			}
			// Short histories, since many unknown outcomes in one take long to judge.
			contended, inTurn, met := 0, 0, false
			least := backendtest.Rounds(40)
			for round := 0; round < least || round < 100 && (contended < leastContended || inTurn == 0 || !met); round++ {
				verdict, queues := bad.round(t, proxy, stores, judges)
				contended += verdict.Contended + queues.Contended
				inTurn += queues.Grants
				met = met || bad.met(proxy, verdict)
				if t.Failed() {
					return
				}
				judges.empty(t)
			}
			t.Logf("%d contended grants, %d in turn; %v over the limit; %d bytes lost, %d requests late",
				contended, inTurn, time.Duration(over.Load()), proxy.Dropped.Load(), proxy.Late.Load())
			require.True(t, met, "nobody met it; the run is void")
			require.GreaterOrEqual(t, contended, leastContended, "contended grants; the run is void")
			require.Positive(t, inTurn, "nobody was served in turn; the run is void")
			require.Less(t, time.Duration(over.Load()), 100*config.OperationTimeout, "a call went on beyond its time")
		})
	}
}

// round has callers work while the network is bad, and judges what they were told.
func (bad badNetwork) round(t *testing.T, proxy *redistest.Proxy, stores []enhanced.Backend, judges *fleet) (verdict, inTurn *history.Verdict) {
	t.Helper()
	stop := bad.begin(proxy)
	var queues *queueRun
	var done sync.WaitGroup
	done.Go(func() { queues = workInTurn(t, stores) })
	// What a store that is cut off answers is no fault of it.
	h, _ := history.Workload{ //nolint:errcheck // see above
		Seed: rand.Uint64(), Steps: 25, MinLease: 20 * time.Millisecond, MaxLease: 300 * time.Millisecond, CancelWithin: 60 * time.Millisecond,
	}.Run(t.Context(), stores...)
	done.Wait()
	stop()
	backendtest.Eventually(t, "the store is served again", func() bool { return stores[0].HealthCheck(t.Context()) == nil })
	// Those who have given up, and could not say so, are taken out: also those who don't
	// count any more, since their process could not say that it is alive.
	backendtest.Eventually(t, "nobody waits", func() bool {
		_, err := judges.stores[0].CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		status, err := judges.stores[0].GetQueueStatus(t.Context())
		require.NoError(t, err)
		logs, err := queues.history.ReadLog(t.Context(), judges.stores[0])
		require.NoError(t, err)
		left := slices.ContainsFunc(history.JudgeQueue(logs["org/queue"], queues.priorities), func(problem string) bool {
			return strings.HasPrefix(problem, "at the end ")
		})
		return status.Size == 0 && !left
	})
	verdict, inTurn = h.Judge(), queues.history.Judge()
	judges.judge(t, h, verdict)
	queues.judge(t, judges, inTurn)
	return verdict, inTurn
}

// behind opens a store through a proxy, as one that gives up on it soon.
func behind(t *testing.T, server *redistest.Server, proxy *redistest.Proxy, config *enhanced.EnhancedConfig) *backends.RedisBackend {
	t.Helper()
	options := server.Options()
	options.Addr = proxy.Addr
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	options.PoolSize = 10_000 // see impatient in package backends
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	b := backends.NewRedisBackend(client, config, nil)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// begin makes a network bad until stop is called.
func (bad badNetwork) begin(proxy *redistest.Proxy) (stop func()) {
	proxy.Be(bad.network)
	end := func() int { return 0 }
	if bad.disturb != nil {
		n := 0
		end = every(30*time.Millisecond, func() {
			if n++; n%2 == 1 {
				bad.disturb(proxy)
			} else {
				bad.heal(proxy)
			}
		})
	}
	return func() {
		end()
		proxy.Be(redistest.Network{})
		proxy.Heal()
	}
}

// queueRun is what callers were told that have waited for their turn.
type queueRun struct {
	history    *history.History
	priorities map[string]enhanced.Priority
}

// workInTurn has callers take, refresh and release one lock, each in its turn.
func workInTurn(t *testing.T, stores []enhanced.Backend) *queueRun {
	t.Helper()
	recorder, run := history.NewRecorder(), &queueRun{priorities: make(map[string]enhanced.Priority)}
	var mu sync.Mutex // protects the priorities
	backendtest.Together(6, func(worker int) {
		client := recorder.Client(stores[worker%len(stores)])
		for round := range 8 {
			r := &enhanced.EnhancedLockRequest{
				ID:       fmt.Sprintf("q%d-%d", worker, round),
				Resource: enhanced.ProjectResource(models.NewProject("org/queue", ".", ""), "default"),
				User:     models.User{Username: "q" + strconv.Itoa(worker)},
				Priority: enhanced.Priority(worker % 4), Timeout: 100 * time.Millisecond,
			}
			mu.Lock()
			run.priorities[r.ID] = r.Priority
			mu.Unlock()
			lock, err := client.AcquireInTurn(t.Context(), r)
			if err != nil {
				continue // it may have the lock: its lease ends
			}
			// Each may come too late, or never.
			if client.Refresh(t.Context(), lock, 100*time.Millisecond) == nil {
				_ = client.Release(t.Context(), lock) //nolint:errcheck // see above
			}
		}
	})
	run.history = recorder.History()
	return run
}

func (r *queueRun) judge(t *testing.T, judges *fleet, verdict *history.Verdict) {
	t.Helper()
	logs, err := r.history.ReadLog(t.Context(), judges.stores[0])
	require.NoError(t, err)
	verdict.Problems = append(verdict.Problems, history.JudgeQueue(logs["org/queue"], r.priorities)...)
	judges.judge(t, r.history, verdict)
}
