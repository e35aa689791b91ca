package main

import (
	"fmt"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
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

// parseScope reads NAME=GLOB parts, separated by semicolons. With a priority it is
// a rule.
func parseScope(text string, withPriority bool) (rule enhanced.PriorityRule, err error) {
	for part := range strings.SplitSeq(text, ";") {
		name, value, found := strings.Cut(strings.TrimSpace(part), "=")
		field := map[string]*string{
			"repository": &rule.Repository, "path": &rule.Path, "workspace": &rule.Workspace, "user": &rule.User,
			"priority": &rule.Priority,
		}[name]
		switch {
		case !found || field == nil || name == "priority" && !withPriority:
			return rule, fmt.Errorf("%q is no part of a rule; give repository=, path=, workspace= or user= with a glob, separated by semicolons", part)
		case value == "" || *field != "":
			return rule, fmt.Errorf("%s is empty or given twice", name)
		}
		*field = value
	}
	return rule, nil
}

// addQueueRules enters the flags for the queue's rules in a configuration.
func (o *serveOptions) addQueueRules(config *enhanced.EnhancedConfig) error {
	for _, text := range o.queueFor {
		rule, err := parseScope(text, false)
		if err != nil {
			return fmt.Errorf("--queue-for %q: %w", text, err)
		}
		config.QueueFor = append(config.QueueFor, rule.Scope())
	}
	for _, text := range o.priorityRules {
		rule, err := parseScope(text, true)
		if err != nil {
			return fmt.Errorf("--priority-rule %q: %w", text, err)
		}
		config.PriorityRules = append(config.PriorityRules, rule)
	}
	return nil
}
