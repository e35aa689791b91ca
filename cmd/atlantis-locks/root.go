package main

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"
)

// programName is what the program is called where nothing else is known.
const programName = "atlantis-locks"

const exitCodesHelp = `Exit codes:
  0  done
  1  error
  2  wrong usage
  3  held by another
  4  not found
  5  permission denied
  6  server not reachable, or stopping
  7  a check found something
  8  waited too long, for a lock or for the store
  9  waiting would be, or was, a deadlock
130  interrupted while it waited
"run" has its own.`

// newRootCommand returns the program. Each subcommand has a file of its own.
func newRootCommand(env environment) *cobra.Command {
	root := &cobra.Command{
		Use:   programName,
		Short: "Serve Atlantis' locks, and work with them",
		Long: `atlantis-locks keeps locks on Terraform projects for Atlantis, and shows,
takes and releases them. "serve" opens the store, and most other commands talk to
it. "migrate", "check --store", "verify --file", "audit verify" and "config", but for
"config reload", need no server: they open stores and files themselves.

` + exitCodesHelp,
		SilenceErrors: true, // report prints them
		SilenceUsage:  true,
		Version:       readVersion().String(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(newHelpCommand())
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return flagError(cmd, err)
	})
	return grouping(root,
		newServeCommand(env),
		newLockCommand(env),
		newLockAllCommand(env),
		newReplaceLocksCommand(env),
		newUnlockCommand(env),
		newRunCommand(env),
		newQueueCommand(env),
		newPriorityCommand(env),
		newModeCommand(env),
		newDeadlocksCommand(env),
		newListCommand(env),
		newShowCommand(env),
		newStatsCommand(env),
		newImportCommand(env),
		newMigrateCommand(env),
		newVerifyCommand(env),
		newCheckCommand(env),
		newAuditCommand(env),
		newConfigCommand(env),
		newVersionCommand(env),
	)
}

func unknownCommand(cmd *cobra.Command, name string) error {
	message := "unknown command " + printable(name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		message += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef(cmd, "%s", message)
}

// newHelpCommand replaces cobra's, which is content with any name.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show what a command does and takes",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
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
