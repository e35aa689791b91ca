package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

const schemaTitle = "Configuration of atlantis-locks"

func newConfigCommand(env environment) *cobra.Command {
	return grouping(&cobra.Command{
		Use:   "config",
		Short: "Show, check and explain the configuration, or have a server reload it",
	}, newConfigPrintCommand(env), newConfigValidateCommand(env), newConfigExplainCommand(env), newConfigSchemaCommand(env), newConfigReloadCommand(env))
}

// printedOption is an option as print shows it.
type printedOption struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

func newConfigPrintCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Show what serve would use, and where each value comes from",
		Long: `Show every option with the value that "serve" would use if it were called with
the same flags, environment and file, and where the value comes from: a flag, a
variable, a line of the file, or the default. Secrets are not shown.`,
		Example: `  atlantis-locks config print --config /etc/atlantis-locks.yaml`,
		Args:    wantArgs(),
	}
	output := addOutputFlag(cmd)
	source := addConfigFlags(cmd, env, allOptions)
	cmd.RunE = func(*cobra.Command, []string) error {
		loaded, err := source.load()
		if err != nil {
			return err
		}
		if problems := loaded.listenProblems(); len(problems) > 0 {
			return problemsError(source.cmd, problems)
		}
		if err := errors.Join(source.warnings(loaded), warnOfVariables(env)); err != nil {
			return err
		}
		var printed []printedOption
		rows := [][]string{{"KEY", "VALUE", "FROM"}}
		for _, o := range source.set.All() {
			p := printedOption{o.Key, o.Show(source.set.Value(o, &loaded.Values)), loaded.Origin(o).String()}
			printed = append(printed, p)
			rows = append(rows, []string{p.Key, dash(p.Value), printable(p.Source)})
		}
		if *output == formatJSON {
			return printJSON(env.stdout, printed)
		}
		return printTable(env.stdout, rows)
	}
	return cmd
}

// foundProblem is a problem as validate shows it.
type foundProblem struct {
	Line    int    `json:"line"`
	Key     string `json:"key"`
	Problem string `json:"problem"`
}

func newConfigValidateCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration file",
		Long: `Check a configuration file by itself, without the environment and without asking
any server, and print all that is wrong with it. Exits with 7 if anything is.`,
		Example: `  atlantis-locks config validate /etc/atlantis-locks.yaml`,
		Args:    wantArgs("FILE"),
	}
	output := addOutputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		content, err := readConfigFile(args[0])
		if err != nil {
			return fmt.Errorf("can't read %q: %w", args[0], err)
		}
		loaded, problems := loadConfiguration(newOptions(), options.Sources{File: content, FileName: printable(args[0])})
		problems = append(problems, loaded.listenProblems()...)
		sortByLine(problems)
		if *output == formatJSON {
			found := []foundProblem{}
			for _, p := range problems {
				found = append(found, foundProblem{p.Origin.Line, p.Key, p.Err.Error()})
			}
			err = printJSON(env.stdout, found)
		} else {
			for _, p := range problems {
				if _, err = fmt.Fprintln(env.stdout, escape(p.Error())); err != nil {
					break
				}
			}
		}
		if err == nil {
			err = warnOf(env, loaded.withoutEffect())
		}
		if err == nil && len(problems) > 0 {
			err = &codedError{exitViolations, fmt.Errorf("%s has %s", printable(args[0]), count(len(problems), "problem"))}
		}
		return err
	}
	return cmd
}

// explainedOption is an option as explain shows it.
type explainedOption struct {
	Key       string   `json:"key"`
	Doc       string   `json:"description"`
	Type      string   `json:"type"`
	Default   string   `json:"default"`
	Flags     []string `json:"flags"`
	Variables []string `json:"variables"`
	Atlantis  string   `json:"atlantis,omitempty"`
	Reload    bool     `json:"changes_at_run_time"`
}

func newConfigExplainCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain KEY",
		Short: "Say what an option is, and how to set it",
		Long: `Say what an option is, what it takes, how to set it, and whether it can change at
run time. KEY is its place in the file, its flag, or its environment variable.`,
		Example: `  atlantis-locks config explain priority-queue.max-queue-size
  atlantis-locks config explain --output json ATLANTIS_REDIS_HOST`,
		Args: wantArgs("KEY"),
	}
	output := addOutputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		set := newOptions()
		o := set.Lookup(args[0])
		if o == nil {
			near := set.Suggest(args[0])
			if near != "" {
				near = "; did you mean " + near + "?"
			}
			return usagef(cmd, "there is no option %s%s", printable(args[0]), near)
		}
		e := explainedOption{
			Key: o.Key, Doc: o.Doc, Type: o.Type(), Default: o.Default(),
			Flags: o.Flags(), Variables: o.Variables(), Atlantis: o.Atlantis, Reload: !o.Restart,
		}
		if *output == formatJSON {
			return printJSON(env.stdout, e)
		}
		changes := "yes, by SIGHUP or \"config reload\""
		if !e.Reload {
			changes = "no, from the next start"
		}
		pairs := [][]string{
			{"key", e.Key}, {"takes", e.Type}, {"default", dash(e.Default)},
			{"flag", "--" + strings.Join(e.Flags, ", --")}, {"variable", strings.Join(e.Variables, ", ")},
			{"changes at run time", changes},
		}
		if o.Atlantis != "" && o.Atlantis != o.Key {
			pairs = append(pairs, []string{"Atlantis' own key", o.Atlantis})
		}
		if _, err := fmt.Fprintf(env.stdout, "%s\n\n", e.Doc); err != nil {
			return err
		}
		return printFields(env.stdout, pairs)
	}
	return cmd
}

func newConfigSchemaCommand(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of the file, for editors",
		Args:  wantArgs(),
		RunE: func(*cobra.Command, []string) error {
			schema, err := newOptions().Schema(schemaTitle)
			if err == nil {
				_, err = env.stdout.Write(schema)
			}
			return err
		},
	}
}

func newConfigReloadCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a server read its configuration again",
		Long: `Have a server read its configuration again, as SIGHUP does. Options that can
change at run time do so together; the others are named, and keep their values. A
configuration that is wrong changes nothing.`,
		Args: wantArgs(),
	}
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, _ []string) (api.Reload, error) {
		return server.Reload(cmd.Context())
	}, func(done api.Reload) error {
		rows := [][]string{{"KEY", "FROM", "TO", "WHEN"}}
		for _, c := range done.Changed {
			rows = append(rows, []string{printable(c.Key), dash(c.From), dash(c.To), "now"})
		}
		for _, c := range done.NeedsRestart {
			rows = append(rows, []string{printable(c.Key), dash(c.From), dash(c.To), "at the next start"})
		}
		return printList(env, rows, "nothing has changed")
	})
}
