package backends

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/recorder"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/runatlantis/atlantis/server/logging"
)

// RedisBackend is an [enhanced.Backend] in Redis 6.2 or newer, or Valkey: one
// server, one behind Sentinel, or a cluster. Any number of processes share it.
// Every change is one Lua script on the server that has the repository, see
// the scripts folder; time is the server's. On one server it shares stock
// Atlantis' keys: locks that stock has put there are honoured from the first
// call, and with PreserveLegacyFormat stock sees what it takes. Redis
// replicates asynchronously: a failover can lose grants that were acknowledged,
// see the operator's guide. Make it with [NewRedisBackend]; all methods are safe
// for concurrent use.
type RedisBackend struct {
	client   redis.UniversalClient
	logger   logging.SimpleLogging
	config   atomic.Pointer[enhanced.EnhancedConfig]
	invalid  error // of the client or the configuration; every call answers it
	keys     redisKeys
	scripts  scripts
	recorder recorder.Recorder

	// checked is set once the server is known to be fit for use.
	checked  atomic.Bool
	checking chan struct{} // a semaphore for one
	// sharded is set on a cluster whose servers have sharded Pub/Sub.
	sharded atomic.Bool

	mu     sync.Mutex // protects closed, and calls.Add against calls.Wait
	closed bool
	calls  sync.WaitGroup
	nodes  nodes
	// adaptive has the time-outs of the scripts, nil without them.
	adaptive atomic.Pointer[timeout.AdaptiveTimeoutManager]

	rooms        sync.Pool // of *[]byte, for texts that are being made
	repositories redisRepositories
	locks        knownLocks

	// process names this backend among all that use the store.
	process   string
	turns     *turns
	sets      redisSetCalls
	listening sync.Once
	listened  chan struct{} // closed once that was tried

	// ending ends with Close; subscriptions live in it.
	ending context.Context
	end    context.CancelFunc
}

var (
	_ enhanced.Backend     = (*RedisBackend)(nil)
	_ enhanced.StatusStore = (*RedisBackend)(nil)
)

// NewRedisBackend returns a backend on a go-redis client for one server, for
// Sentinel (redis.NewFailoverClient) or for a cluster (redis.NewClusterClient).
// It does not connect. A nil config means [enhanced.DefaultConfig], a nil logger
// none. With an invalid configuration, or a client that contradicts it, every
// call answers INVALID_REQUEST. With the client's ContextTimeoutEnabled a lone caller of the
// adapter sends by itself, which costs a third less; its hooks then run in that caller, and
// have to return by the context's deadline. The caller keeps the client and closes it after
// [RedisBackend.Close].
func NewRedisBackend(client redis.UniversalClient, config *enhanced.EnhancedConfig, logger logging.SimpleLogging) *RedisBackend {
	if config == nil {
		config = enhanced.DefaultConfig()
	}
	b := &RedisBackend{client: client, logger: enhanced.LoggerOrNoop(logger), scripts: loadScripts(), checking: make(chan struct{}, 1), listened: make(chan struct{}), process: rand.Text()}
	b.turns = &turns{waiting: newWaiting(b.watch), store: redisQueue{b}, recorder: &b.recorder, logger: b.logger}
	b.ending, b.end = context.WithCancel(context.Background())
	full := config.WithDefaults()
	b.config.Store(full)
	b.adaptive.Store(newAdaptive(full))
	b.keys = redisKeys{full.RedisKeyPrefix}
	if b.invalid = config.Validate(); b.invalid == nil {
		b.invalid = b.contradiction(full)
	}
	if full.Backend != enhanced.BackendRedis {
		b.logger.Warn("configuration names the backend %q; the one that was passed counts: %q", full.Backend, enhanced.BackendRedis)
	}
	return b
}

// contradiction compares the client with the configuration.
func (b *RedisBackend) contradiction(config *enhanced.EnhancedConfig) error {
	switch client := b.client.(type) {
	case nil:
		return enhanced.NewInvalidError("client is nil; pass a go-redis client")
	case *redis.ClusterClient:
		if o := client.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			return enhanced.NewInvalidError("client reads from replicas (ReadOnly %t, RouteByLatency %t, RouteRandomly %t), which lag behind; set none of them", o.ReadOnly, o.RouteByLatency, o.RouteRandomly)
		}
		return nil
	case *redis.Client:
		if config.RedisClusterMode {
			return enhanced.NewInvalidError("redis_cluster_mode: true contradicts a client for one server (%s); pass redis.NewClusterClient", client.Options().Addr)
		}
		return nil
	default:
		return enhanced.NewInvalidError("client is a %T; pass redis.NewClient, redis.NewFailoverClient or redis.NewClusterClient", client)
	}
}

// isCluster reports whether keys are spread over several servers.
func (b *RedisBackend) isCluster() bool {
	_, is := b.client.(*redis.ClusterClient)
	return is
}

// UpdateConfiguration replaces the configuration. Calls in progress finish with
// the one they started with. The key prefix can't change.
func (b *RedisBackend) UpdateConfiguration(config *enhanced.EnhancedConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	full := config.WithDefaults()
	if err := b.contradiction(full); err != nil {
		return err
	}
	if full.RedisKeyPrefix != b.keys.prefix {
		return enhanced.NewInvalidError("redis_key_prefix: %q can't replace %q while the program runs", full.RedisKeyPrefix, b.keys.prefix)
	}
	b.reconfigure(b.config.Swap(full), full)
	return nil
}

// begin counts a call in, unless the backend is closed.
func (b *RedisBackend) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.calls.Add(1)
	return true
}

// Close ends the calls that wait, which leave the queue, refuses further calls,
// ends all subscriptions, and waits for what is under way, at most as long as the
// client's own timeouts. It leaves the client open. Closing twice does nothing.
func (b *RedisBackend) Close() error {
	b.turns.close()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.end()
	b.calls.Wait()
	return nil
}

// ready answers what stands in the way of every call.
func (b *RedisBackend) ready(ctx context.Context, operation string) error {
	if b.invalid != nil {
		return b.invalid
	}
	if b.checked.Load() {
		return nil
	}
	_, err := call(ctx, b, operation, false, func(ctx context.Context) (struct{}, error) {
		select {
		case b.checking <- struct{}{}:
			defer func() { <-b.checking }()
		case <-ctx.Done():
			return struct{}{}, ctx.Err()
		}
		if b.checked.Load() {
			return struct{}{}, nil
		}
		if err := b.check(ctx); err != nil {
			return struct{}{}, err
		}
		b.checked.Store(true)
		return struct{}{}, nil
	})
	return err
}

// HealthCheck returns nil when the server answers and is fit for use: a
// primary that evicts nothing, runs Lua and grants the rights that are needed.
func (b *RedisBackend) HealthCheck(ctx context.Context) error {
	const operation = "health check"
	if err := b.ready(ctx, operation); err != nil {
		return err
	}
	_, err := call(ctx, b, operation, false, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.eachPrimary(ctx, b.checkServer)
	})
	return err
}

// eachPrimary calls fn for every server that takes writes, one after the other
// or at the same time.
func (b *RedisBackend) eachPrimary(ctx context.Context, fn func(ctx context.Context, node redis.Cmdable) error) error {
	if cluster, ok := b.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return fn(ctx, node) })
	}
	return fn(ctx, b.client)
}

// answer is what a step says.
type answer struct {
	status string
	// expired is how many leases the step has ended.
	expired int
	values  []string
}

// step runs a script on one repository. The name may be empty when only the
// tag is known. stock are stock's keys of the resources.
func (b *RedisBackend) step(ctx context.Context, operation string, s script, tag, name string, stock []string, args ...any) (answer, error) {
	config := b.config.Load()
	publish, channel := b.keys.wake(tag, b.sharded.Load())
	all := make([]any, 0, 6+len(args))
	all = append(all, name, config.LogMaxRecords, scriptTimes(config), publish, channel, b.keys.news())
	reply, err := b.run(ctx, operation, s, append(b.keys.repository(tag), stock...), append(all, args...)...)
	if err != nil {
		return answer{}, err
	}
	if len(reply) < 2 {
		return answer{}, enhanced.NewBackendError(operation, fmt.Errorf("script %s answered %q", s.name, reply))
	}
	return answer{reply[0], b.countEndings(reply[1]), reply[2:]}, nil
}

// scriptTimes are the configured times as the prelude reads them.
func scriptTimes(config *enhanced.EnhancedConfig) string {
	claim := int64(0)
	if config.EnablePriorityQueue {
		claim = max(config.QueueClaimTimeout, time.Millisecond).Microseconds()
	}
	text := strconv.AppendInt(nil, config.LogMaxAge.Microseconds(), 10)
	for _, micros := range []int64{
		claim, config.DetachedQueueTimeout.Microseconds(), config.ReplanWindow.Microseconds(), config.TombstoneTTL.Microseconds(),
		config.UncleanReleaseDelay.Microseconds(),
		config.SetReserveAfter.Microseconds(),
	} {
		text = strconv.AppendInt(append(text, ' '), micros, 10)
	}
	return string(text)
}

// value returns the nth value of an answer, "" when it has fewer.
func (a answer) value(n int) string {
	if n < len(a.values) {
		return a.values[n]
	}
	return ""
}
