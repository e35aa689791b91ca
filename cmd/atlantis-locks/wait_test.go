package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestBlockerText(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	pull := api.Owner{Pull: 5, Host: "ghe.com"}
	for want, blocker := range map[string]*api.Blocker{
		"":                                  nil,
		"held by user alice":                {Kind: "lock", Owner: api.Owner{User: "alice"}, Until: &until},
		`held by user alice (note: "\x1b")`: {Kind: "lock", Owner: api.Owner{User: "alice"}, Note: "\x1b"},
		"granted to pull request 5 on ghe.com, which has until 2026-01-02 02:04:05 UTC to take it": {Kind: "claim", Owner: pull, Until: &until},
		"kept for pull request 5 on ghe.com, which plans again, until 2026-01-02 02:04:05 UTC":     {Kind: "reservation", Owner: pull, Until: &until},
		"kept for user alice until 2026-01-02 02:04:05 UTC, since its lease ended without a release": {
			Kind: "delay", Owner: api.Owner{User: "alice"}, Until: &until,
		},
		"behind a set of locks that pull request 5 on ghe.com waits for": {Kind: "set", Owner: pull},
	} {
		require.Equal(t, want, blockerText(blocker))
	}
}

// Those who wait and get nothing can tell why.
func TestExitCodesOfWaiting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	expired, done := context.WithTimeout(t.Context(), 0)
	defer done()
	<-expired.Done()
	for want, err := range map[int]error{
		exitInterrupted: leftQueue(ctx),
		exitError:       leftQueue(expired), // "run" has a code of its own
		exitTimeout:     &api.Problem{Code: enhanced.ErrCodeTimeout},
		exitDeadlock:    &api.Problem{Code: enhanced.ErrCodeDeadlock},
		exitUnreachable: &api.Problem{Code: stoppingCode},
	} {
		require.Equal(t, want, exitCode(fmt.Errorf("waiting: %w", err)), "%v", err)
	}
}
