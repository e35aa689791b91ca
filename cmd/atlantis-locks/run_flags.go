package main

import (
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/spf13/pflag"
)

// runFlags say for how long things are kept for pull requests, whose commands do
// not wait.
type runFlags struct {
	detached, claim, replan, tombstone time.Duration
}

func addRunFlags(flags *pflag.FlagSet) *runFlags {
	var f runFlags
	defaults := enhanced.DefaultConfig()
	flags.DurationVar(&f.detached, "detached-queue-timeout", defaults.DetachedQueueTimeout, "how long a pull request keeps its place in a queue at most; 0 until it is closed")
	flags.DurationVar(&f.claim, "queue-claim-timeout", defaults.QueueClaimTimeout, "how long a lock that a pull request was given waits for its next plan")
	flags.DurationVar(&f.replan, "replan-window", defaults.ReplanWindow, "how long a lock that others wait for is kept for a pull request that plans again")
	flags.DurationVar(&f.tombstone, "tombstone-ttl", defaults.TombstoneTTL, "how long a run of a closed pull request is kept from taking locks")
	return &f
}

func (f *runFlags) apply(config *enhanced.EnhancedConfig) {
	config.DetachedQueueTimeout, config.QueueClaimTimeout = f.detached, f.claim
	config.ReplanWindow, config.TombstoneTTL = f.replan, f.tombstone
}
