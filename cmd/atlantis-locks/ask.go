package main

import (
	"fmt"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

// asking makes a command one that asks its server something, and prints the answer:
// with show for people, as it is with --output json.
func asking[T any](cmd *cobra.Command, env environment,
	ask func(cmd *cobra.Command, server *client.Client, args []string) (T, error), show func(answer T) error,
) *cobra.Command {
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		answer, err := ask(cmd, server, args)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(env.stdout, answer)
		}
		return show(answer)
	}
	return cmd
}

// printList prints a table, or what to say where it has nothing but its header.
func printList(env environment, rows [][]string, nothing string) error {
	if len(rows) == 1 {
		_, err := fmt.Fprintln(env.stdout, nothing)
		return err
	}
	return printTable(env.stdout, rows)
}

// grouping makes a command one that has others below it, and does nothing by itself.
func grouping(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(cmd, args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2 // letters that a mistyped name may differ by
	cmd.AddCommand(below...)
	return cmd
}
