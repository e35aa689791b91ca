package main

import (
	"fmt"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newPriorityCommand(env environment) *cobra.Command {
	return grouping(&cobra.Command{
		Use:   "priority",
		Short: "Explain the priorities that the server's rules give",
	}, newPriorityExplainCommand(env))
}

func newPriorityExplainCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain REPO PATH WORKSPACE",
		Short: "Show which priority a request gets, and by which rule",
		Long: `Show which priority a request of a user, you by default, gets if it names none,
which of the rules of serve (--priority-rule) gives it, and whether the request
uses the queue (--queue-for).`,
		Example: `  atlantis-locks priority explain acme/infra envs/prod default --user release-bot`,
		Args:    wantProject,
	}
	project := addProjectFlag(cmd)
	var who ownerFlags
	cmd.Flags().StringVar(&who.user, "user", "", "the user who asks, for a pull request who runs the plan (default: you)")
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (answer api.Priority, err error) {
		user, err := who.userName(cmd, env)
		if err != nil {
			return answer, err
		}
		answer, err = server.Priority(cmd.Context(), project.resource(args), user)
		return answer, asUsage(cmd, err)
	}, func(answer api.Priority) error {
		why := fmt.Sprintf("by rule %d", answer.Rule)
		if answer.Rule == 0 {
			why = "since no rule fits"
		}
		use := "it uses the queue"
		if !answer.Queued {
			use = "it does not use the queue"
		}
		_, err := fmt.Fprintf(env.stdout, "%s, %s; %s\n", printable(answer.Priority), why, use)
		return err
	})
}
