package enhanced

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// Names of the backends, for [EnhancedConfig.Backend].
const (
	BackendBoltDB = "boltdb"
	BackendRedis  = "redis"
)

// Policies for [EnhancedConfig.ResolutionPolicy]: which waiter of a deadlock
// gives up.
const (
	PolicyLowestPriority = "lowest_priority"
	PolicyYoungest       = "youngest"
	PolicyOldest         = "oldest"
	PolicyFewestLocks    = "fewest_locks"
	PolicyMostLocks      = "most_locks"
	PolicyRandom         = "random"
	PolicyNone           = "none"
)

// EnhancedConfig holds every option. A zero duration, count or string means
// its default, so a partial literal works; zero booleans are off. Constructors
// copy it: later edits count only through UpdateConfiguration. Methods do not
// change their receiver and are safe for concurrent use.
//
// The tags beside mapstructure are for the program: file is an option's place in
// its YAML file, doc what the help and docs/configuration.md say of it, restart that
// it can't change at run time. A new field needs file and doc; flag, environment
// variable, schema and documentation follow.
type EnhancedConfig struct {
	// Enabled switches LockingAdapter from the legacy database to this system.
	Enabled bool `mapstructure:"enabled" file:"enhanced-locking.enabled" doc:"Use these locks instead of Atlantis' own. The program does nothing else, so it can't be off there." restart:"true"`
	// Backend is BackendBoltDB (default) or BackendRedis. The backend that is
	// passed to a constructor decides; a different name here is logged.
	Backend string `mapstructure:"backend" file:"enhanced-locking.backend" doc:"Where the locks are: boltdb, a file of one process, or redis, which any number of servers share." enum:"boltdb,redis" atlantis:"locking-db-type" restart:"true"`
	// DefaultTimeout is the lease of enhanced requests that name none, except on
	// Redis, where it is RedisLockTTL. Default 30m.
	DefaultTimeout time.Duration `mapstructure:"default_timeout" file:"enhanced-locking.default-timeout" doc:"Lease of a request that names none, on boltdb."`
	// MaxTimeout is the longest lease that can be asked for. Default 2h.
	MaxTimeout time.Duration `mapstructure:"max_timeout" file:"enhanced-locking.max-timeout" doc:"Longest lease that can be asked for."`
	// LegacyLockTimeout is the lease of locks taken through Atlantis' own
	// methods. Default 0: they never expire.
	LegacyLockTimeout time.Duration `mapstructure:"legacy_lock_timeout" file:"enhanced-locking.legacy-lock-timeout" doc:"Lease of locks that Atlantis takes; 0 for locks that stay until they are released."`
	// UncleanReleaseDelay is how long a lock whose lease ends stays closed to other
	// owners, counted from that end by the store's clock: a holder that has stalled
	// can notice its loss before somebody else begins (the lock-delay of Chubby and
	// Consul). Its last owner can take it again at once. A release, a transfer and a
	// forced unlock leave no delay. Give all processes of a store the same. Default 0.
	UncleanReleaseDelay time.Duration `mapstructure:"unclean_release_delay" file:"enhanced-locking.unclean-release-delay" doc:"How long a lock whose lease ended without a release stays closed to other owners; 0 for not at all."`
	// OperationTimeout bounds the methods of db.Database, which have no
	// context. Default 5s.
	OperationTimeout time.Duration `mapstructure:"operation_timeout" file:"enhanced-locking.operation-timeout" doc:"Limit of a call of Atlantis to the store."`

	// EnablePriorityQueue lets blocking calls wait in a queue for a lock that is
	// held.
	EnablePriorityQueue bool `mapstructure:"enable_priority_queue" file:"priority-queue.enabled" doc:"Calls that can wait do so in a queue."`
	// QueueFor has the queue used by some requests only, for a gradual roll-out:
	// those that one of the scopes fits. It is the manager and the adapter that
	// look at it, and the others are served as without a queue. Default: all.
	QueueFor []QueueScope `mapstructure:"queue_for" file:"priority-queue.queue-for" doc:"Only requests that one entry fits use the queue; each has globs for repository, path, workspace and user. As a flag, repeatable: \"repository=acme/*;path=envs/prod/**\"; as a variable one per line."`
	// PriorityRules give a priority to requests that name none: those of Lock,
	// LockWithTimeout and Atlantis. The first one that fits counts. Default: none,
	// which is PriorityNormal.
	PriorityRules []PriorityRule `mapstructure:"priority_rules" file:"priority-queue.priority-rules" doc:"Priorities of requests that name none; the first entry that fits counts. As a flag, repeatable: \"user=release-bot;priority=critical\"; as a variable one per line." flag:"priority-rule"`
	// MaxQueueSize bounds the waiters of one resource. Default 1000.
	MaxQueueSize int `mapstructure:"max_queue_size" file:"priority-queue.max-queue-size" doc:"Requests that can wait for one lock."`
	// QueueTimeout bounds the wait of a blocked call. Default 10m.
	QueueTimeout time.Duration `mapstructure:"queue_timeout" file:"priority-queue.queue-timeout" doc:"How long a blocked request waits at most."`
	// DetachedQueueTimeout bounds the wait of a request that a non-blocking
	// call left behind. Default 0: until its pull request closes.
	DetachedQueueTimeout time.Duration `mapstructure:"detached_queue_timeout" file:"priority-queue.detached-queue-timeout" doc:"How long a pull request that was refused keeps its place; 0 until it is closed."`
	// QueueClaimTimeout is how long a granted lock waits for a detached waiter
	// to claim it. Default 30m.
	QueueClaimTimeout time.Duration `mapstructure:"queue_claim_timeout" file:"priority-queue.queue-claim-timeout" doc:"How long a lock that was granted to a pull request waits for its next plan."`
	// ReplanWindow bounds how long a lock stays reserved for the pull request
	// that gave it back to plan again. Default 1h.
	ReplanWindow time.Duration `mapstructure:"replan_window" file:"priority-queue.replan-window" doc:"How long a lock stays reserved at most for the pull request that plans again."`
	// PriorityAgingInterval is the wait that lifts a waiter by one priority.
	// Default 0: priorities are strict.
	PriorityAgingInterval time.Duration `mapstructure:"priority_aging_interval" file:"priority-queue.priority-aging-interval" doc:"Wait that lifts a request by one priority; 0 for strict priorities."`
	// WaiterLiveness is how long a blocked waiter that shows no sign of life
	// keeps its place. Default 10s.
	WaiterLiveness time.Duration `mapstructure:"waiter_liveness" file:"priority-queue.waiter-liveness" doc:"How long a blocked request whose server shows no sign of life keeps its place."`
	// TombstoneTTL is how long a closed pull request stays unable to take
	// locks. Default 24h.
	TombstoneTTL time.Duration `mapstructure:"tombstone_ttl" file:"priority-queue.tombstone-ttl" doc:"How long a closed pull request can't take locks."`
	// SetReserveAfter is the wait after which the free members of a waiting
	// set of resources are kept for it. Default 1m.
	SetReserveAfter time.Duration `mapstructure:"set_reserve_after" file:"priority-queue.set-reserve-after" doc:"Wait after which the free locks of a request for several are kept for it."`

	// EnableRetry has the manager repeat what failed in the store (BACKEND_ERROR),
	// until the call's context ends. After a failure with an unknown outcome only
	// what is safe to do twice is repeated: readings, requests for a lock, which
	// keep their ID, and nothing that releases.
	EnableRetry bool `mapstructure:"enable_retry" file:"retry.enabled" doc:"Repeat what failed in the store."`
	// MaxRetryAttempts counts all attempts of an operation, the first one
	// included. Default 3.
	MaxRetryAttempts int `mapstructure:"max_retry_attempts" file:"retry.max-attempts" doc:"Attempts of an operation, the first one included."`
	// RetryBaseDelay and RetryMaxDelay bound the pauses: the nth is random between
	// zero and the smaller of RetryMaxDelay and RetryBaseDelay * 2^(n-1).
	// Defaults 1s and 30s.
	RetryBaseDelay time.Duration `mapstructure:"retry_base_delay" file:"retry.base-delay" doc:"Pause after the first attempt at most; it doubles with each."`
	RetryMaxDelay  time.Duration `mapstructure:"retry_max_delay" file:"retry.max-delay" doc:"Pause after any attempt at most."`
	// RetryLockExists also repeats Acquire, Lock and their variants while somebody
	// else holds the lock, in no order among those who ask. It needs EnableRetry.
	RetryLockExists bool `mapstructure:"retry_lock_exists" file:"retry.lock-exists" doc:"Calls that can wait also ask again while somebody else holds the lock."`

	// EnableCircuitBreaker has the Redis backend answer BACKEND_ERROR at once,
	// with [timeout.ErrOpen], instead of asking a server that keeps failing. Each
	// server of a cluster has a circuit of its own.
	EnableCircuitBreaker bool `mapstructure:"enable_circuit_breaker" file:"circuit-breaker.enabled" doc:"Do not ask a Redis server for a while that keeps failing."`
	// CircuitFailureThreshold is how many exchanges with a server must fail in a
	// row, without an answer, for its circuit to open. Default 5.
	CircuitFailureThreshold int `mapstructure:"circuit_failure_threshold" file:"circuit-breaker.failure-threshold" doc:"Failures in a row after which a server is not asked."`
	// CircuitOpenTimeout is how long a circuit stays open before one exchange
	// tries the server again. Default 2s.
	CircuitOpenTimeout time.Duration `mapstructure:"circuit_open_timeout" file:"circuit-breaker.open-timeout" doc:"How long it is not asked."`

	// EnableAdaptiveTimeout has the Redis backend end a script's call as
	// BACKEND_ERROR that takes 4 times as long as is usual for that script, see
	// [timeout.AdaptiveTimeoutManager]. Without it only the call's context and
	// the client's own time-outs do.
	EnableAdaptiveTimeout bool `mapstructure:"enable_adaptive_timeout" file:"adaptive-timeout.enabled" doc:"Give up on a script in Redis that takes much longer than usual."`
	// AdaptiveTimeoutMin and AdaptiveTimeoutMax bound these time-outs. Defaults
	// 100ms and 5s.
	AdaptiveTimeoutMin time.Duration `mapstructure:"adaptive_timeout_min" file:"adaptive-timeout.min" doc:"Time that a script has at least."`
	AdaptiveTimeoutMax time.Duration `mapstructure:"adaptive_timeout_max" file:"adaptive-timeout.max" doc:"Time that a script has at most."`

	// EnableDeadlockDetection has a started manager look for owners that wait for
	// each other, and end that: queues are re-ordered where it helps, else one
	// waiter's call answers DEADLOCK. Of all managers of a store one does so at a time.
	EnableDeadlockDetection bool `mapstructure:"enable_deadlock_detection" file:"deadlock-detection.enabled" doc:"Look for requests that wait for each other, and end that."`
	// DeadlockCheckInterval is the time between two looks. Default 30s.
	DeadlockCheckInterval time.Duration `mapstructure:"deadlock_check_interval" file:"deadlock-detection.check-interval" doc:"Time between two looks."`
	// ResolutionPolicy chooses who gives up waiting; package deadlock says whom each
	// policy hurts. Default PolicyLowestPriority.
	ResolutionPolicy string `mapstructure:"resolution_policy" file:"deadlock-detection.resolution-policy" doc:"Which request of a deadlock gives up." enum:"lowest_priority,youngest,oldest,fewest_locks,most_locks,random,none"`
	// DeadlockReleaseHeld also releases, by force, the lock of who gives up that the
	// others wait for. Default: it keeps its locks.
	DeadlockReleaseHeld bool `mapstructure:"deadlock_release_held" file:"deadlock-detection.release-held" doc:"Also release, by force, the lock of who gives up that the others wait for."`
	// DeadlockPrevention refuses a request with DEADLOCK that would close a cycle of
	// waits within its repository, where re-ordering queues does not prevent that.
	DeadlockPrevention bool `mapstructure:"deadlock_prevention" file:"deadlock-detection.prevention" doc:"Refuse a request that would close a deadlock; it needs the queue."`
	// DeadlockCheckLimit bounds the edges that prevention follows. Default 1000.
	DeadlockCheckLimit int `mapstructure:"deadlock_check_limit" file:"deadlock-detection.check-limit" doc:"Waits that are followed at most before a request is let in unchecked."`

	// EnableEvents delivers events to callbacks. The store's log and
	// Backend.Subscribe do not depend on it.
	EnableEvents bool `mapstructure:"enable_events" file:"events.enabled" doc:"Tell callbacks of changes, which the program's log is one of."`
	// EventBufferSize bounds the events that wait for callbacks or for one
	// subscriber. Default 1000.
	EventBufferSize int `mapstructure:"event_buffer_size" file:"events.buffer-size" doc:"Events that wait for one reader; beyond it they are dropped."`

	// LogMaxAge and LogMaxRecords bound the log of each repository. Defaults
	// 720h (30 days) and 100000 records.
	LogMaxAge     time.Duration `mapstructure:"log_max_age" file:"audit-log.max-age" doc:"Age up to which the store keeps records of changes."`
	LogMaxRecords int           `mapstructure:"log_max_records" file:"audit-log.max-records" doc:"Records of changes that the store keeps for each repository."`

	// RedisClusterMode says that the Redis client is a cluster's.
	RedisClusterMode bool `mapstructure:"redis_cluster_mode" file:"redis.cluster-mode" doc:"The Redis is a cluster. Several addresses without a sentinel master are one anyway." restart:"true"`
	// RedisKeyPrefix starts every Redis key; no braces or glob characters.
	// Default "atlantis:lock:".
	RedisKeyPrefix string `mapstructure:"redis_key_prefix" file:"redis.key-prefix" doc:"Start of every key, the same for all servers on one Redis." restart:"true"`
	// RedisLockTTL is the lease of an enhanced request on Redis that names
	// none. Default 1h.
	RedisLockTTL time.Duration `mapstructure:"redis_lock_ttl" file:"redis.lock-ttl" doc:"Lease of a request that names none, on Redis."`

	// RedisMinReplicasAck is how many replicas must have confirmed a grant,
	// release, refresh or transfer within a second; otherwise the call fails
	// and its outcome is unknown. It narrows what a failover can lose, see
	// https://redis.io/docs/latest/commands/wait/. Default 0: none.
	RedisMinReplicasAck int `mapstructure:"redis_min_replicas_ack" file:"redis.min-replicas-ack" doc:"Replicas that must have a change before it counts."`

	// AdapterName has the adapter take part in the [Fleet] of the store, under a name
	// that no other adapter has, such as the host's: then the mode that is set for all
	// adapters says which database decides. Default "": the store decides. It can't
	// change at run time.
	AdapterName string `mapstructure:"adapter_name" file:"backward-compatibility.adapter-name" doc:"Name under which an adapter follows the mode that is set for all. For programs that embed the library; the program has no adapter." restart:"true"`

	// LegacyFallback has LockingAdapter keep the legacy database such that it can
	// answer when the store fails, and has it answer then, see
	// [LockingAdapter.Fallback]. It only over-locks. A legacy database in the same
	// store is none. It needs FallbackSingleReplica on a store that several
	// processes can use, such as Redis; without that, and with an AdapterName, it has
	// no effect.
	LegacyFallback bool `mapstructure:"legacy_fallback" file:"backward-compatibility.legacy-fallback" doc:"Fall back to Atlantis' own locks while the store is down, where that is safe. For programs that embed the library; the program has none."`
	// FallbackSingleReplica confirms that one replica of Atlantis uses the store.
	// Several with a legacy database each would grant one lock to several owners
	// while they can't reach it. Default false: no fallback from Redis.
	FallbackSingleReplica bool `mapstructure:"fallback_single_replica" file:"backward-compatibility.fallback-single-replica" doc:"Only one replica of Atlantis uses the store, without which there is no fallback from Redis."`
	// PreserveLegacyFormat also keeps each project lock where and as stock
	// Atlantis keeps it.
	PreserveLegacyFormat bool `mapstructure:"preserve_legacy_format" file:"backward-compatibility.preserve-legacy-format" doc:"Also keep each lock where and as Atlantis keeps its own."`
	// DenySystemUnlock refuses Atlantis' own Unlock and UnlockByPull, which
	// carry no owner: closing a pull request and the unlock button then keep
	// locks.
	DenySystemUnlock bool `mapstructure:"deny_system_unlock" file:"backward-compatibility.deny-system-unlock" doc:"Refuse Atlantis' own unlocks, which name no owner."`
}

// DefaultConfig returns the defaults: this system switched off, the embedded
// store, every optional feature off, legacy fallback and format on.
func DefaultConfig() *EnhancedConfig {
	config := &EnhancedConfig{LegacyFallback: true, PreserveLegacyFormat: true}
	return config.WithDefaults()
}

// WithDefaults returns a copy in which every zero duration, count and string
// that has a default is replaced by it.
func (c *EnhancedConfig) WithDefaults() *EnhancedConfig {
	d := *c
	d.QueueFor, d.PriorityRules = slices.Clone(c.QueueFor), slices.Clone(c.PriorityRules)
	setDefault(&d.Backend, BackendBoltDB)
	setDefault(&d.DefaultTimeout, 30*time.Minute)
	setDefault(&d.MaxTimeout, 2*time.Hour)
	setDefault(&d.OperationTimeout, 5*time.Second)
	setDefault(&d.MaxQueueSize, 1000)
	setDefault(&d.QueueTimeout, 10*time.Minute)
	setDefault(&d.QueueClaimTimeout, 30*time.Minute)
	setDefault(&d.ReplanWindow, time.Hour)
	setDefault(&d.WaiterLiveness, 10*time.Second)
	setDefault(&d.TombstoneTTL, 24*time.Hour)
	setDefault(&d.SetReserveAfter, time.Minute)
	setDefault(&d.MaxRetryAttempts, 3)
	setDefault(&d.RetryBaseDelay, time.Second)
	setDefault(&d.RetryMaxDelay, 30*time.Second)
	setDefault(&d.CircuitFailureThreshold, 5)
	setDefault(&d.CircuitOpenTimeout, 2*time.Second)
	setDefault(&d.AdaptiveTimeoutMin, 100*time.Millisecond)
	setDefault(&d.AdaptiveTimeoutMax, 5*time.Second)
	setDefault(&d.DeadlockCheckInterval, 30*time.Second)
	setDefault(&d.ResolutionPolicy, PolicyLowestPriority)
	setDefault(&d.DeadlockCheckLimit, 1000)
	setDefault(&d.EventBufferSize, 1000)
	setDefault(&d.LogMaxAge, 720*time.Hour)
	setDefault(&d.LogMaxRecords, 100_000)
	setDefault(&d.RedisKeyPrefix, "atlantis:lock:")
	setDefault(&d.RedisLockTTL, time.Hour)
	return &d
}

func setDefault[T comparable](field *T, value T) {
	*field = cmp.Or(*field, value)
}

// Validate checks the configuration as it will count, with its defaults in
// place. The error is an INVALID_REQUEST that names every wrong field with its
// value and, for a contradiction, both fields with both values.
func (c *EnhancedConfig) Validate() error {
	if c == nil {
		return NewInvalidError("configuration is nil")
	}
	d := c.WithDefaults()
	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf(format, args...))
	}
	oneOf := func(field, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			report("%s: %q is none of %s", field, value, strings.Join(allowed, ", "))
		}
	}

	oneOf("backend", d.Backend, BackendBoltDB, BackendRedis)
	oneOf("resolution_policy", d.ResolutionPolicy, PolicyLowestPriority, PolicyYoungest, PolicyOldest,
		PolicyFewestLocks, PolicyMostLocks, PolicyRandom, PolicyNone)
	for _, f := range valuesOf[time.Duration](d) {
		if f.value < 0 {
			report("%s: %v is negative", f.name, f.value)
		}
	}
	for _, f := range []namedValue[time.Duration]{
		{"default_timeout", d.DefaultTimeout},
		{"max_timeout", d.MaxTimeout},
		{"legacy_lock_timeout", d.LegacyLockTimeout},
		{"redis_lock_ttl", d.RedisLockTTL},
	} {
		if f.value > 0 && f.value < time.Millisecond {
			report("%s: %v is not a lease; give at least 1ms", f.name, f.value)
		}
	}
	for _, f := range valuesOf[int](d) {
		if f.value < 0 {
			report("%s: %d is negative", f.name, f.value)
		}
	}
	if strings.ContainsAny(d.RedisKeyPrefix, "{}[]?*\\^") {
		report("redis_key_prefix: %q contains a brace or a glob character", d.RedisKeyPrefix)
	}
	if err := validateText("redis_key_prefix", d.RedisKeyPrefix); err != nil {
		problems = append(problems, err)
	}
	if err := validateText("adapter_name", d.AdapterName); err != nil {
		problems = append(problems, err)
	}
	if d.DefaultTimeout > d.MaxTimeout {
		report("default_timeout: %v is above max_timeout: %v", d.DefaultTimeout, d.MaxTimeout)
	}
	if d.LegacyLockTimeout > d.MaxTimeout {
		report("legacy_lock_timeout: %v is above max_timeout: %v", d.LegacyLockTimeout, d.MaxTimeout)
	}
	if d.RetryBaseDelay > d.RetryMaxDelay {
		report("retry_base_delay: %v is above retry_max_delay: %v", d.RetryBaseDelay, d.RetryMaxDelay)
	}
	if d.AdaptiveTimeoutMin > d.AdaptiveTimeoutMax {
		report("adaptive_timeout_min: %v is above adaptive_timeout_max: %v", d.AdaptiveTimeoutMin, d.AdaptiveTimeoutMax)
	}
	if d.RetryLockExists && !d.EnableRetry {
		report("retry_lock_exists: true needs enable_retry: true, which is false")
	}
	if err := (queue.Order{AgingInterval: d.PriorityAgingInterval}).Validate(); err != nil && d.PriorityAgingInterval >= 0 {
		report("priority_aging_interval: %v", err)
	}
	problems = append(problems, d.ruleProblems()...)
	if d.DeadlockPrevention && !d.EnablePriorityQueue {
		report("deadlock_prevention: true needs enable_priority_queue: true, which is false; without a queue nobody waits")
	}
	if len(problems) == 0 {
		return nil
	}
	return &LockError{Code: ErrCodeInvalidRequest, Message: "configuration is invalid", Err: errors.Join(problems...)}
}

type namedValue[T any] struct {
	name  string
	value T
}

// valuesOf returns the fields of one type.
func valuesOf[T any](c *EnhancedConfig) (values []namedValue[T]) {
	fields := reflect.ValueOf(c).Elem()
	for i := range fields.NumField() {
		if value, ok := fields.Field(i).Interface().(T); ok {
			values = append(values, namedValue[T]{fields.Type().Field(i).Tag.Get("mapstructure"), value})
		}
	}
	return values
}
