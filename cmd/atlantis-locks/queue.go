package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newQueueCommand(env environment) *cobra.Command {
	return grouping(&cobra.Command{
		Use:   "queue",
		Short: "Show what waits for locks, move requests and take them out",
	}, newQueueListCommand(env), newQueuePositionCommand(env), newQueueMoveCommand(env), newQueueCancelCommand(env))
}

func newQueueListCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what waits, in the order in which it is served",
		Example: `  atlantis-locks queue list
  atlantis-locks queue list --repo acme/infra --output json`,
		Args: wantArgs(),
	}
	repository := cmd.Flags().String("repo", "", "only what waits in this repository")
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, _ []string) (api.QueueList, error) {
		return server.Queue(cmd.Context(), *repository)
	}, func(list api.QueueList) error {
		return printList(env, waiterRows(list.Waiters, env.now()), "nothing waits")
	})
}

func waiterRows(waiters []api.Waiter, now time.Time) [][]string {
	rows := [][]string{{"REPOSITORY", "PATH", "WORKSPACE", "PROJECT", "PLACE", "WHO", "PRIORITY", "FOR", "NOTE"}}
	for _, w := range waiters {
		rows = append(rows, []string{
			dash(w.Repository), dash(w.Path), dash(w.Workspace), dash(w.ProjectName), strconv.Itoa(w.Place),
			ownerText(api.Lock{Owner: w.Owner, OwnerID: w.OwnerID}), dash(w.Priority), roughly(now.Sub(w.Since)), dash(w.Note),
		})
	}
	return rows
}

func newQueueCancelCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel REPO PATH WORKSPACE",
		Short: "Take a request out of the queue",
		Long: `Take the request of a user, you by default, or of a pull request out of the
queue. The call that waits ends and says who did it.`,
		Example: `  atlantis-locks queue cancel acme/infra envs/prod default
  atlantis-locks queue cancel acme/infra envs/prod default --pull 5`,
		Args: wantProject,
	}
	project := addProjectFlag(cmd)
	owner := addWaiterFlags(cmd)
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (answer api.Cancelled, err error) {
		waiter, err := owner.owner(cmd, env)
		if err != nil {
			return answer, err
		}
		actor, err := env.username()
		if err != nil {
			return answer, usagef(cmd, "the name of your login is unknown")
		}
		resource := project.resource(args)
		answer, err = server.Cancel(cmd.Context(), api.CancelRequest{
			Repository: resource.Repository, Path: resource.Path, Workspace: resource.Workspace, ProjectName: resource.ProjectName,
			Owner: waiter, Actor: actor,
		})
		return answer, notWaiting(env, asUsage(cmd, err))
	}, func(answer api.Cancelled) error {
		_, err := fmt.Fprintf(env.stdout, "%s does not wait any longer\n", idText(answer.OwnerID))
		return err
	})
}
