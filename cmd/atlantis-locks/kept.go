package main

import (
	"context"
	"fmt"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
)

// heldHint says where to find more on what is in the way.
func heldHint(env environment, holder *api.Lock) string {
	const how = "%q tells more; its owner can unlock it"
	switch {
	case holder.ID != "":
		return fmt.Sprintf(how, env.command("show "+holder.ID))
	case holder.State == string(enhanced.LockStatePending):
		return fmt.Sprintf("nobody holds it; %q says why it is kept", env.command("queue position "+projectArguments(holder)))
	default: // stock Atlantis alone has recorded it
		return fmt.Sprintf(how, env.command("show "+projectArguments(holder)))
	}
}

// projectArguments are the arguments that name what a lock is on.
func projectArguments(lock *api.Lock) string {
	words := []string{printable(lock.Repository), printable(lock.Path), printable(lock.Workspace)}
	if lock.ProjectName != "" {
		words = append(words, "--project-name", printable(lock.ProjectName))
	}
	return strings.Join(words, " ")
}

// keptInstead adds to the error that a project is not locked for whom it is kept.
func keptInstead(ctx context.Context, server *client.Client, project api.Resource, err error) error {
	if exitCode(err) != exitNotFound {
		return err
	}
	// Whoever asks, the answer has what is in the way.
	position, otherErr := server.Position(ctx, project, api.Owner{User: programName})
	if otherErr != nil || position.Blocker == nil {
		return err
	}
	return withHint(fmt.Errorf("%w; it is %s", err, blockerText(position.Blocker)),
		"what is kept is no lock, and can't be taken by others; with a queue, \"lock --wait\" waits for it")
}
