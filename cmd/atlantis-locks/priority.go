package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newPriorityCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "priority",
		Short: "Explain the priorities that the server's rules give",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(newPriorityExplainCommand(env))
	return cmd
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
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	project := addProjectFlag(cmd)
	var who ownerFlags
	cmd.Flags().StringVar(&who.user, "user", "", "the user who asks, for a pull request who runs the plan (default: you)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		user, err := who.userName(cmd, env)
		if err != nil {
			return err
		}
		answer, err := server.Priority(cmd.Context(), project.resource(args), user)
		if err != nil {
			return asUsage(cmd, err)
		}
		if *output == formatJSON {
			return printJSON(env.stdout, answer)
		}
		why := fmt.Sprintf("by rule %d", answer.Rule)
		if answer.Rule == 0 {
			why = "since no rule fits"
		}
		use := "it uses the queue"
		if !answer.Queued {
			use = "it does not use the queue"
		}
		_, err = fmt.Fprintf(env.stdout, "%s, %s; %s\n", printable(answer.Priority), why, use)
		return err
	}
	return cmd
}
