package main

import (
	"fmt"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newQueuePositionCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "position REPO PATH WORKSPACE",
		Short: "Show where a user or a pull request stands in a queue, and what it waits for",
		Example: `  atlantis-locks queue position acme/infra envs/prod default
  atlantis-locks queue position acme/infra envs/prod default --pull 5`,
		Args: wantProject,
	}
	project := addProjectFlag(cmd)
	owner := addWaiterFlags(cmd)
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (answer api.Position, err error) {
		waiter, err := owner.owner(cmd, env)
		if err != nil {
			return answer, err
		}
		answer, err = server.Position(cmd.Context(), project.resource(args), waiter)
		return answer, asUsage(cmd, err)
	}, func(position api.Position) error {
		_, err := fmt.Fprintf(env.stdout, "%s %s\n", idText(position.OwnerID), placeText(position))
		return err
	})
}

// placeText says where the owner of a position stands.
func placeText(position api.Position) string {
	blocker := position.Blocker
	where := fmt.Sprintf("is number %d of %d in the queue", position.Place, position.Length)
	switch {
	case position.Place > 0:
	case blocker != nil && blocker.Kind == enhanced.BlockedByLock && blocker.OwnerID == position.OwnerID:
		return "holds the lock; " + others(position.Length, "waits", "wait")
	default:
		where = "does not wait; " + others(position.Length, "does", "do")
	}
	if what := blockerText(blocker); what != "" {
		where += ", " + what
	}
	return where
}

func newQueueMoveCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move REPO PATH WORKSPACE",
		Short: "Put a request before all others in its queue",
		Long: `Put the request of a user or of a pull request before all others that wait for
the lock, whatever their priority. It overrides the order, so it needs a reason,
which is logged with your name.`,
		Example: `  atlantis-locks queue move acme/infra envs/prod default --pull 5 --reason "fixes the outage"`,
		Args:    wantProject,
	}
	project := addProjectFlag(cmd)
	owner := addWaiterFlags(cmd)
	reason := cmd.Flags().String("reason", "", "why others are to wait longer (required)")
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (answer api.Moved, err error) {
		waiter, err := owner.owner(cmd, env)
		if err != nil {
			return answer, err
		}
		actor, err := actorWithReason(cmd, env, *reason, "why others are to wait longer")
		if err != nil {
			return answer, err
		}
		resource := project.resource(args)
		answer, err = server.Move(cmd.Context(), api.MoveRequest{
			Repository: resource.Repository, Path: resource.Path, Workspace: resource.Workspace, ProjectName: resource.ProjectName,
			Owner: waiter, Actor: actor, Reason: *reason,
		})
		return answer, notWaiting(env, asUsage(cmd, err))
	}, func(answer api.Moved) error {
		_, err := fmt.Fprintf(env.stdout, "%s is the next one in the queue\n", idText(answer.OwnerID))
		return err
	})
}

// others says of how many others something is so, as one does it and as many do.
func others(n int, one, many string) string {
	switch n {
	case 0:
		return "nobody " + one
	case 1:
		return "1 other " + one
	default:
		return fmt.Sprintf("%d others %s", n, many)
	}
}

// notWaiting adds to the error that somebody does not wait where to see who does.
func notWaiting(env environment, err error) error {
	if exitCode(err) != exitNotFound {
		return err
	}
	return withHint(err, "%q shows who waits", env.command("queue list"))
}
