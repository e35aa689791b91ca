package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

func newQueueCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Show what waits for locks, move requests and take them out",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(newQueueListCommand(env), newQueuePositionCommand(env), newQueueMoveCommand(env), newQueueCancelCommand(env))
	return cmd
}

func newQueueListCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what waits, in the order in which it is served",
		Example: `  atlantis-locks queue list
  atlantis-locks queue list --repo acme/infra --output json`,
		Args: wantArgs(),
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	repository := cmd.Flags().String("repo", "", "only what waits in this repository")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		list, err := server.Queue(cmd.Context(), *repository)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(env.stdout, list)
		}
		if len(list.Waiters) == 0 {
			_, err := fmt.Fprintln(env.stdout, "nothing waits")
			return err
		}
		return printTable(env.stdout, waiterRows(list.Waiters, env.now()))
	}
	return cmd
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
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	project := addProjectFlag(cmd)
	owner := addOwnerFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		waiter, err := owner.owner(cmd, env)
		if err != nil {
			return err
		}
		actor, err := env.username()
		if err != nil {
			return usagef(cmd, "the name of your login is unknown")
		}
		resource := project.resource(args)
		answer, err := server.Cancel(cmd.Context(), api.CancelRequest{
			Repository: resource.Repository, Path: resource.Path, Workspace: resource.Workspace, ProjectName: resource.ProjectName,
			Owner: waiter, Actor: actor,
		})
		if err != nil {
			return notWaiting(env, asUsage(cmd, err))
		}
		if *output == formatJSON {
			return printJSON(env.stdout, answer)
		}
		_, err = fmt.Fprintf(env.stdout, "%s does not wait any longer\n", printable(answer.OwnerID))
		return err
	}
	return cmd
}
