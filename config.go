package enhanced

import (
	"cmp"
	"errors"
	"fmt"
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
type EnhancedConfig struct {
	// Enabled switches LockingAdapter from the legacy database to this system.
	Enabled bool `mapstructure:"enabled"`
	// Backend is BackendBoltDB (default) or BackendRedis. The backend that is
	// passed to a constructor decides; a different name here is logged.
	Backend string `mapstructure:"backend"`
	// DefaultTimeout is the lease of enhanced requests that name none. Default 30m.
	DefaultTimeout time.Duration `mapstructure:"default_timeout"`
	// MaxTimeout is the longest lease that can be asked for. Default 2h.
	MaxTimeout time.Duration `mapstructure:"max_timeout"`
	// LegacyLockTimeout is the lease of locks taken through Atlantis' own
	// methods. Default 0: they never expire.
	LegacyLockTimeout time.Duration `mapstructure:"legacy_lock_timeout"`
	// OperationTimeout bounds the methods of db.Database, which have no
	// context. Default 5s.
	OperationTimeout time.Duration `mapstructure:"operation_timeout"`

	// EnablePriorityQueue lets blocking calls wait in a queue for a lock that is
	// held.
	EnablePriorityQueue bool `mapstructure:"enable_priority_queue"`
	// QueueFor has the queue used by some requests only, for a gradual roll-out:
	// those that one of the scopes fits. It is the manager and the adapter that
	// look at it, and the others are served as without a queue. Default: all.
	QueueFor []QueueScope `mapstructure:"queue_for"`
	// PriorityRules give a priority to requests that name none: those of Lock,
	// LockWithTimeout and Atlantis. The first one that fits counts. Default: none,
	// which is PriorityNormal.
	PriorityRules []PriorityRule `mapstructure:"priority_rules"`
	// MaxQueueSize bounds the waiters of one resource. Default 1000.
	MaxQueueSize int `mapstructure:"max_queue_size"`
	// QueueTimeout bounds the wait of a blocked call. Default 10m.
	QueueTimeout time.Duration `mapstructure:"queue_timeout"`
	// DetachedQueueTimeout bounds the wait of a request that a non-blocking
	// call left behind. Default 0: until its pull request closes.
	DetachedQueueTimeout time.Duration `mapstructure:"detached_queue_timeout"`
	// QueueClaimTimeout is how long a granted lock waits for a detached waiter
	// to claim it. Default 30m.
	QueueClaimTimeout time.Duration `mapstructure:"queue_claim_timeout"`
	// ReplanWindow bounds how long a lock stays reserved for the pull request
	// that gave it back to plan again. Default 1h.
	ReplanWindow time.Duration `mapstructure:"replan_window"`
	// PriorityAgingInterval is the wait that lifts a waiter by one priority.
	// Default 0: priorities are strict.
	PriorityAgingInterval time.Duration `mapstructure:"priority_aging_interval"`
	// WaiterLiveness is how long a blocked waiter that shows no sign of life
	// keeps its place. Default 10s.
	WaiterLiveness time.Duration `mapstructure:"waiter_liveness"`
	// TombstoneTTL is how long a closed pull request stays unable to take
	// locks. Default 24h.
	TombstoneTTL time.Duration `mapstructure:"tombstone_ttl"`
	// SetReserveAfter is the wait after which the free members of a waiting
	// set of resources are kept for it. Default 1m.
	SetReserveAfter time.Duration `mapstructure:"set_reserve_after"`

	// EnableRetry has the manager repeat what failed in the store (BACKEND_ERROR),
	// until the call's context ends. After a failure with an unknown outcome only
	// what is safe to do twice is repeated: readings, requests for a lock, which
	// keep their ID, and nothing that releases.
	EnableRetry bool `mapstructure:"enable_retry"`
	// MaxRetryAttempts counts all attempts of an operation, the first one
	// included. Default 3.
	MaxRetryAttempts int `mapstructure:"max_retry_attempts"`
	// RetryBaseDelay and RetryMaxDelay bound the pauses: the nth is random between
	// zero and the smaller of RetryMaxDelay and RetryBaseDelay * 2^(n-1).
	// Defaults 1s and 30s.
	RetryBaseDelay time.Duration `mapstructure:"retry_base_delay"`
	RetryMaxDelay  time.Duration `mapstructure:"retry_max_delay"`
	// RetryLockExists also repeats Acquire, Lock and their variants while somebody
	// else holds the lock, in no order among those who ask. It needs EnableRetry.
	RetryLockExists bool `mapstructure:"retry_lock_exists"`

	// EnableCircuitBreaker has the Redis backend answer BACKEND_ERROR at once,
	// with [timeout.ErrOpen], instead of asking a server that keeps failing. Each
	// server of a cluster has a circuit of its own.
	EnableCircuitBreaker bool `mapstructure:"enable_circuit_breaker"`
	// CircuitFailureThreshold is how many exchanges with a server must fail in a
	// row, without an answer, for its circuit to open. Default 5.
	CircuitFailureThreshold int `mapstructure:"circuit_failure_threshold"`
	// CircuitOpenTimeout is how long a circuit stays open before one exchange
	// tries the server again. Default 2s.
	CircuitOpenTimeout time.Duration `mapstructure:"circuit_open_timeout"`

	// EnableAdaptiveTimeout has the Redis backend end a script's call as
	// BACKEND_ERROR that takes 4 times as long as is usual for that script, see
	// [timeout.AdaptiveTimeoutManager]. Without it only the call's context and
	// the client's own time-outs do.
	EnableAdaptiveTimeout bool `mapstructure:"enable_adaptive_timeout"`
	// AdaptiveTimeoutMin and AdaptiveTimeoutMax bound these time-outs. Defaults
	// 100ms and 5s.
	AdaptiveTimeoutMin time.Duration `mapstructure:"adaptive_timeout_min"`
	AdaptiveTimeoutMax time.Duration `mapstructure:"adaptive_timeout_max"`

	// EnableDeadlockDetection looks for cycles of waits.
	EnableDeadlockDetection bool `mapstructure:"enable_deadlock_detection"`
	// DeadlockCheckInterval is the time between two looks. Default 30s.
	DeadlockCheckInterval time.Duration `mapstructure:"deadlock_check_interval"`
	// ResolutionPolicy chooses who gives up. Default PolicyLowestPriority.
	ResolutionPolicy string `mapstructure:"resolution_policy"`
	// DeadlockPrevention refuses a request that would close a cycle.
	DeadlockPrevention bool `mapstructure:"deadlock_prevention"`
	// DeadlockCheckLimit bounds the edges that prevention follows. Default 1000.
	DeadlockCheckLimit int `mapstructure:"deadlock_check_limit"`

	// EnableEvents delivers events to callbacks. The store's log and
	// Backend.Subscribe do not depend on it.
	EnableEvents bool `mapstructure:"enable_events"`
	// EventBufferSize bounds the events that wait for callbacks or for one
	// subscriber. Default 1000.
	EventBufferSize int `mapstructure:"event_buffer_size"`

	// LogMaxAge and LogMaxRecords bound the log of each repository. Defaults
	// 720h (30 days) and 100000 records.
	LogMaxAge     time.Duration `mapstructure:"log_max_age"`
	LogMaxRecords int           `mapstructure:"log_max_records"`

	// RedisClusterMode says that the Redis client is a cluster's.
	RedisClusterMode bool `mapstructure:"redis_cluster_mode"`
	// RedisKeyPrefix starts every Redis key; no braces or glob characters.
	// Default "atlantis:lock:".
	RedisKeyPrefix string `mapstructure:"redis_key_prefix"`
	// RedisLockTTL is the lease of an enhanced request on Redis that names
	// none. Default 1h.
	RedisLockTTL time.Duration `mapstructure:"redis_lock_ttl"`

	// RedisMinReplicasAck is how many replicas must have confirmed a grant,
	// release, refresh or transfer within a second; otherwise the call fails
	// and its outcome is unknown. It narrows what a failover can lose, see
	// https://redis.io/docs/latest/commands/wait/. Default 0: none.
	RedisMinReplicasAck int `mapstructure:"redis_min_replicas_ack"`

	// LegacyFallback has LockingAdapter keep the legacy database such that it can
	// answer when the store fails, and has it answer then, see
	// [LockingAdapter.Fallback]. It only over-locks. A legacy database in the same
	// store is none. It needs FallbackSingleReplica on a store that several
	// processes can use, such as Redis; without that it has no effect.
	LegacyFallback bool `mapstructure:"legacy_fallback"`
	// FallbackSingleReplica confirms that one replica of Atlantis uses the store.
	// Several with a legacy database each would grant one lock to several owners
	// while they can't reach it. Default false: no fallback from Redis.
	FallbackSingleReplica bool `mapstructure:"fallback_single_replica"`
	// PreserveLegacyFormat also keeps each project lock where and as stock
	// Atlantis keeps it.
	PreserveLegacyFormat bool `mapstructure:"preserve_legacy_format"`
	// DenySystemUnlock refuses Atlantis' own Unlock and UnlockByPull, which
	// carry no owner: closing a pull request and the unlock button then keep
	// locks.
	DenySystemUnlock bool `mapstructure:"deny_system_unlock"`
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
	for _, f := range d.durations() {
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
	for _, f := range d.counts() {
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

func (c *EnhancedConfig) durations() []namedValue[time.Duration] {
	return []namedValue[time.Duration]{
		{"default_timeout", c.DefaultTimeout},
		{"max_timeout", c.MaxTimeout},
		{"legacy_lock_timeout", c.LegacyLockTimeout},
		{"operation_timeout", c.OperationTimeout},
		{"queue_timeout", c.QueueTimeout},
		{"detached_queue_timeout", c.DetachedQueueTimeout},
		{"queue_claim_timeout", c.QueueClaimTimeout},
		{"replan_window", c.ReplanWindow},
		{"priority_aging_interval", c.PriorityAgingInterval},
		{"waiter_liveness", c.WaiterLiveness},
		{"tombstone_ttl", c.TombstoneTTL},
		{"set_reserve_after", c.SetReserveAfter},
		{"retry_base_delay", c.RetryBaseDelay},
		{"retry_max_delay", c.RetryMaxDelay},
		{"circuit_open_timeout", c.CircuitOpenTimeout},
		{"adaptive_timeout_min", c.AdaptiveTimeoutMin},
		{"adaptive_timeout_max", c.AdaptiveTimeoutMax},
		{"deadlock_check_interval", c.DeadlockCheckInterval},
		{"log_max_age", c.LogMaxAge},
		{"redis_lock_ttl", c.RedisLockTTL},
	}
}

func (c *EnhancedConfig) counts() []namedValue[int] {
	return []namedValue[int]{
		{"max_queue_size", c.MaxQueueSize},
		{"max_retry_attempts", c.MaxRetryAttempts},
		{"circuit_failure_threshold", c.CircuitFailureThreshold},
		{"deadlock_check_limit", c.DeadlockCheckLimit},
		{"event_buffer_size", c.EventBufferSize},
		{"log_max_records", c.LogMaxRecords},
		{"redis_min_replicas_ack", c.RedisMinReplicasAck},
	}
}
