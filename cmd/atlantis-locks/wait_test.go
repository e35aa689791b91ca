package main

import (
	"testing"
	"time"

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
