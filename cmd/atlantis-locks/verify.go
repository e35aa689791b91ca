package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// verifyOptions are the flags of verify.
type verifyOptions struct {
	file    string
	dataDir string
	repair  bool
	reason  string
	yes     bool
	user    string
}

func newVerifyCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the store, and repair it",
		Long: `Check everything that can be checked in the store: in use, through the server,
or at rest, in a file that no process has open. Each rule that is broken is
named, with what a repair would do. Nothing is changed without --repair.

A repair shows its steps first, and logs each with your name and the reason. It
never takes a readable lock away or makes one. Records that can't be read, and
so count as held, are moved byte for byte to the file's bucket
"enhanced-quarantine", or in Redis to the hash PREFIX{TAG}:aside; what they
locked is free then. What a repair can't do is
for a person, and stays.

Exits with 7 if a rule is broken and, after a repair, if one still is.`,
		Example: `  atlantis-locks verify
  atlantis-locks verify --repair --reason "the disk was full"
  atlantis-locks verify --data-dir /var/lib/atlantis --output json`,
		Args: wantArgs(),
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	var o verifyOptions
	flags := cmd.Flags()
	flags.StringVar(&o.file, "file", "", "check this file at rest, instead of the server's store")
	flags.StringVar(&o.dataDir, "data-dir", "", "check "+dataFileName+" in this directory at rest")
	flags.BoolVar(&o.repair, "repair", false, "repair what can be repaired, after showing it")
	flags.StringVar(&o.reason, "reason", "", "why, for the audit log, with --repair")
	flags.BoolVar(&o.yes, "yes", false, "repair without asking")
	flags.StringVar(&o.user, "user", "", "who repairs, for the audit log (default: you, by the name of your login)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(cmd); err != nil {
			return err
		}
		var checked store
		if path := o.path(); path != "" {
			checked = fileStore{path}
		} else {
			server, err := connection.client(cmd)
			if err != nil {
				return err
			}
			checked = serverStore{server}
		}
		return o.run(cmd, env, checked, *output)
	}
	return cmd
}

func (o *verifyOptions) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	switch {
	case given("file") && given("data-dir"):
		return usagef(cmd, "--file and --data-dir exclude each other: both name a file")
	case given("server") && (given("file") || given("data-dir")):
		return usagef(cmd, "--server and a file exclude each other: a store is checked in use or at rest")
	case given("file") && o.file == "":
		return usagef(cmd, "--file is empty")
	case given("data-dir") && o.dataDir == "":
		return usagef(cmd, "--data-dir is empty")
	case o.repair && strings.TrimSpace(o.reason) == "":
		return usagef(cmd, "--repair needs --reason: it is logged")
	case !o.repair && (given("reason") || given("yes") || given("user")):
		return usagef(cmd, "--reason, --yes and --user are for --repair")
	default:
		return nil
	}
}

func (o *verifyOptions) path() string {
	if o.dataDir != "" {
		return filepath.Join(o.dataDir, dataFileName)
	}
	return o.file
}

// run checks the store and, if that is asked for and confirmed, repairs it.
func (o *verifyOptions) run(cmd *cobra.Command, env environment, checked store, output format) error {
	violations, err := checked.verify(cmd.Context())
	if err != nil {
		return err
	}
	report := newVerifyReport(checked.name(), violations)
	if !o.repair || report.repairable() == 0 {
		return report.finish(env.stdout, output)
	}
	actor, err := (&ownerFlags{user: o.user}).userName(cmd, env)
	if err != nil {
		return err
	}
	if output == formatTable {
		if err := report.print(env.stdout); err != nil {
			return err
		}
	}
	if !o.yes && !o.confirm(cmd, output, report) {
		if output == formatJSON {
			err = printJSON(env.stdout, report)
		}
		return errors.Join(err, &codedError{code: exitViolations, err: withHint(
			errors.New("nothing was repaired"), "to do what is shown, repeat the command with --yes")})
	}
	// The signal that ends the program does not end a repair half-way.
	repaired, remaining, err := checked.repair(context.WithoutCancel(cmd.Context()), actor, o.reason)
	if err != nil {
		return err
	}
	report.enter(repaired, remaining)
	return report.finish(env.stdout, output)
}

// confirm asks the person at the terminal, if there is one.
func (o *verifyOptions) confirm(cmd *cobra.Command, output format, report *verifyReport) bool {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || output != formatTable || !term.IsTerminal(int(in.Fd())) {
		return false
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "repair %d of %s in %s? [y/N] ",
		report.repairable(), count(len(report.Violations), "violation"), printable(report.Store))
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
