package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
)

// auditReport is what audit verify found, as --output json shows it.
type auditReport struct {
	File     string         `json:"file"`
	Records  int            `json:"records"`
	Hash     string         `json:"hash"`
	Findings []auditFinding `json:"findings"`
}

// auditFinding is something in an audit file that is not as it was written.
type auditFinding struct {
	Line int    `json:"line"`
	What string `json:"what"`
}

func newAuditVerifyCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that an exported log is what was exported",
		Long: `Check the chain of hashes in FILE, which "audit export" wrote, and the sequences
of its records: a record that was altered, removed, inserted or moved is found,
with the number of its line. - reads from stdin.

Whoever can replace the file can also make it anew, with hashes that fit. Give
the final hash that the export printed, and that was kept elsewhere, to find
that, too. What was gone from the log before the export can't be found.

Exits with 7 if something was found.`,
		Example: `  atlantis-locks audit verify audit-2026-01.jsonl --hash 7b52009b64fd0a2a49e6d8a939753077792b0554...`,
		Args:    wantArgs("FILE"),
	}
	output := addOutputFlag(cmd)
	hash := cmd.Flags().String("hash", "", "the final hash that the export printed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("hash") && !isHash(*hash) {
			return usagef(cmd, "--hash %s is no hash: it has 64 digits 0 to 9 and a to f", printable(*hash))
		}
		report, err := verifyAuditFile(cmd, env, args[0], *hash)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			err = printJSON(env.stdout, report)
		} else {
			err = report.print(env.stdout)
		}
		return errors.Join(err, report.outcome())
	}
	return cmd
}

func verifyAuditFile(cmd *cobra.Command, env environment, path, hash string) (*auditReport, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("can't read %q: %w", path, withoutPath(err))
		}
		defer file.Close() //nolint:errcheck // only read
		in = file
	}
	check := newAuditCheck()
	if err := check.read(in); err != nil {
		return nil, fmt.Errorf("can't read %q: %w", path, withoutPath(err))
	}
	check.finish(hash)
	if check.sealed == 0 && check.records == 0 && check.line > 0 {
		return nil, &codedError{exitViolations, withHint(fmt.Errorf("%q is no export of the log: none of its lines ends with a hash", path),
			"%q writes one", env.command("audit export"))}
	}
	return &auditReport{File: path, Records: check.records, Hash: check.final, Findings: check.findings}, nil
}

// shownFindings is how many findings people get to see.
const shownFindings = 20

func (r *auditReport) print(w io.Writer) error {
	if len(r.Findings) == 0 {
		_, err := fmt.Fprintf(w, "%s: %s, nothing changed since the export, unless all of it was made anew\nfinal hash %s\n",
			printable(r.File), count(r.Records, "record"), r.Hash)
		return err
	}
	rows := [][]string{{"LINE", "WHAT IS WRONG"}}
	for _, f := range r.Findings[:min(len(r.Findings), shownFindings)] {
		rows = append(rows, []string{strconv.Itoa(f.Line), escape(f.What)})
	}
	if more := len(r.Findings) - shownFindings; more > 0 {
		rows = append(rows, []string{"...", fmt.Sprintf("%d more", more)})
	}
	return printTable(w, rows)
}

func (r *auditReport) outcome() error {
	if len(r.Findings) == 0 {
		return nil
	}
	return &codedError{code: exitViolations, err: fmt.Errorf("%s is not what was exported", printable(r.File))}
}
