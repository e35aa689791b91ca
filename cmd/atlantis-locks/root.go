package main

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"
)

const exitCodesHelp = `Exit codes:
  0  done
  1  error
  2  wrong usage
  3  held by another
  4  not found
  5  permission denied
  6  server not reachable
  7  a check found something`

// newRootCommand returns the program. Each subcommand has a file of its own.
func newRootCommand(env environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "atlantis-locks",
		Short: "Serve Atlantis' locks, and work with them",
		Long: `atlantis-locks keeps locks on Terraform projects for Atlantis, and shows,
takes and releases them. "serve" opens the store; all other commands talk to it.

` + exitCodesHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true, // report prints them
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2, // letters that a mistyped name may differ by
	}
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{command: cmd.CommandPath(), message: err.Error()}
	})
	root.AddCommand(
		newServeCommand(env),
		newLockCommand(env),
		newUnlockCommand(env),
		newListCommand(env),
		newShowCommand(env),
		newStatsCommand(env),
		newImportCommand(env),
		newVerifyCommand(env),
		newAuditCommand(env),
		newVersionCommand(env),
	)
	return root
}

func unknownCommand(cmd *cobra.Command, name string) error {
	message := "there is no command " + printable(name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		message += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{command: cmd.CommandPath(), message: message}
}

// wantArgs checks that there is one argument for each of the names.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		want := "no arguments"
		if len(names) > 0 {
			want = strings.Join(names, " ")
		}
		return usagef(cmd, "%s takes %s, got %d: %s", cmd.Name(), want, len(args), cmp.Or(printableAll(args), "nothing"))
	}
}

// setting is the default of a flag that an environment variable can set.
func setting(env environment, variable, otherwise string) string {
	return cmp.Or(env.getenv(variable), otherwise)
}
