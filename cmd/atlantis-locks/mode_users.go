package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
)

// maxNamed is how many locks a warning names.
const maxNamed = 5

// warnOfUsersLocks tells who has Atlantis' own database decide from now on which
// locks of users that makes void: it knows those of pull requests only.
func warnOfUsersLocks(ctx context.Context, env environment, server *client.Client, before api.Fleet, to string) {
	toLegacy := slices.Contains([]string{string(enhanced.ModeOff), string(enhanced.ModeShadow), string(enhanced.ModeRead)}, to)
	if !toLegacy || !before.NeedsStore {
		return
	}
	list, err := server.List(ctx, api.Filter{})
	if err != nil {
		fmt.Fprintf(env.stderr, "warning: in the mode %s locks of users have no effect, and it is unknown whether there are any: %s\n", to, escape(err.Error()))
		return
	}
	var named []string
	for _, lock := range list.Locks {
		if lock.Owner.User != "" && lock.Type == string(enhanced.ResourceTypeProject) {
			named = append(named, resourceText(lock)+" by "+ownerText(lock))
		}
	}
	if len(named) == 0 {
		return
	}
	held := "1 is held: "
	if len(named) > 1 {
		held = fmt.Sprintf("%d are held: ", len(named))
	}
	if more := len(named) - maxNamed; more > 0 {
		named = append(named[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	fmt.Fprintf(env.stderr, "warning: in the mode %s locks of users have no effect, and %s%s; no adapter follows before they are unlocked\n",
		to, held, strings.Join(named, ", "))
}
