package main

import (
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/spf13/pflag"
)

// deadlockFlags say what is done about owners that wait for each other.
type deadlockFlags struct {
	prevention  bool
	limit       int
	detection   bool
	interval    time.Duration
	policy      string
	releaseHeld bool
}

func addDeadlockFlags(flags *pflag.FlagSet) *deadlockFlags {
	var f deadlockFlags
	defaults := enhanced.DefaultConfig()
	flags.BoolVar(&f.prevention, "deadlock-prevention", false, "refuse a request that would wait in a circle")
	flags.IntVar(&f.limit, "deadlock-check-limit", defaults.DeadlockCheckLimit, "waits that prevention follows at most")
	flags.BoolVar(&f.detection, "enable-deadlock-detection", false, "look for circles of waits, and end them")
	flags.DurationVar(&f.interval, "deadlock-check-interval", defaults.DeadlockCheckInterval, "time between two looks")
	flags.StringVar(&f.policy, "resolution-policy", defaults.ResolutionPolicy,
		"who gives up waiting: lowest_priority, youngest, oldest, fewest_locks, most_locks, random or none")
	flags.BoolVar(&f.releaseHeld, "deadlock-release-held", false, "who gives up waiting also loses, by force, the lock that the others wait for")
	return &f
}

func (f *deadlockFlags) apply(config *enhanced.EnhancedConfig) {
	config.DeadlockPrevention, config.DeadlockCheckLimit = f.prevention, f.limit
	config.EnableDeadlockDetection, config.DeadlockCheckInterval = f.detection, f.interval
	config.ResolutionPolicy, config.DeadlockReleaseHeld = f.policy, f.releaseHeld
}
