package main

import (
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/spf13/pflag"
)

// faultFlags say what is done while the store is slow or down.
type faultFlags struct {
	retry, retryLockExists bool
	attempts               int
	baseDelay, maxDelay    time.Duration

	circuit     bool
	threshold   int
	openTimeout time.Duration

	adaptive   bool
	least, max time.Duration
}

func addFaultFlags(flags *pflag.FlagSet) *faultFlags {
	var f faultFlags
	defaults := enhanced.DefaultConfig()
	flags.BoolVar(&f.retry, "enable-retry", false, "repeat what failed in the store")
	flags.IntVar(&f.attempts, "max-retry-attempts", defaults.MaxRetryAttempts, "attempts of an operation, the first one included")
	flags.DurationVar(&f.baseDelay, "retry-base-delay", defaults.RetryBaseDelay, "pause after the first attempt at most; it doubles with each")
	flags.DurationVar(&f.maxDelay, "retry-max-delay", defaults.RetryMaxDelay, "pause after any attempt at most")
	flags.BoolVar(&f.retryLockExists, "retry-lock-exists", false, "calls that can wait also ask again while somebody else holds the lock")
	flags.BoolVar(&f.circuit, "enable-circuit-breaker", false, "do not ask a Redis server for a while that keeps failing")
	flags.IntVar(&f.threshold, "circuit-failure-threshold", defaults.CircuitFailureThreshold, "failures in a row after which a server is not asked")
	flags.DurationVar(&f.openTimeout, "circuit-open-timeout", defaults.CircuitOpenTimeout, "how long it is not asked")
	flags.BoolVar(&f.adaptive, "enable-adaptive-timeout", false, "give up on a script in Redis that takes much longer than usual")
	flags.DurationVar(&f.least, "adaptive-timeout-min", defaults.AdaptiveTimeoutMin, "time that a script has at least")
	flags.DurationVar(&f.max, "adaptive-timeout-max", defaults.AdaptiveTimeoutMax, "time that a script has at most")
	return &f
}

func (f *faultFlags) apply(config *enhanced.EnhancedConfig) {
	config.EnableRetry, config.RetryLockExists = f.retry, f.retryLockExists
	config.MaxRetryAttempts, config.RetryBaseDelay, config.RetryMaxDelay = f.attempts, f.baseDelay, f.maxDelay
	config.EnableCircuitBreaker, config.CircuitFailureThreshold, config.CircuitOpenTimeout = f.circuit, f.threshold, f.openTimeout
	config.EnableAdaptiveTimeout, config.AdaptiveTimeoutMin, config.AdaptiveTimeoutMax = f.adaptive, f.least, f.max
}
