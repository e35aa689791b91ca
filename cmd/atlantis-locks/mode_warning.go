package main

import (
	"context"
	"fmt"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
)

// warningTimeout bounds a look at the mode, which nothing depends on.
const warningTimeout = 2 * time.Second

// warnOfMode tells who has just got a lock, or looks at one, if Atlantis does not
// ask the store for locks.
func warnOfMode(ctx context.Context, env environment, server *client.Client) {
	ctx, cancel := context.WithTimeout(ctx, warningTimeout)
	defer cancel()
	fleet, err := server.Mode(ctx)
	if err != nil || fleet.Mode == "" || fleet.NeedsStore {
		return
	}
	fmt.Fprintf(env.stderr, "warning: in the mode %s Atlantis' own database decides, so a lock here stops nobody there; see %q\n",
		printable(fleet.Mode), env.command("mode get"))
}
