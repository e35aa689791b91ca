package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// verifyReport is what verify found and did, as --output json shows it.
type verifyReport struct {
	// Store is the address of the server, or the path of the file.
	Store string `json:"store"`
	// Violations are what was found.
	Violations []api.Violation `json:"violations"`
	// Repaired is what was repaired, Remaining what is left then.
	Repaired  []api.Violation `json:"repaired"`
	Remaining []api.Violation `json:"remaining"`

	wasRepaired bool
}

func newVerifyReport(store string, violations []api.Violation) *verifyReport {
	if violations == nil {
		violations = []api.Violation{}
	}
	return &verifyReport{Store: store, Violations: violations, Repaired: []api.Violation{}, Remaining: violations}
}

// enter notes what a repair did.
func (r *verifyReport) enter(repaired, remaining []api.Violation) {
	r.Repaired, r.Remaining, r.wasRepaired = repaired, remaining, true
}

// repairable returns how many of the violations a repair would end.
func (r *verifyReport) repairable() int {
	n := 0
	for _, v := range r.Violations {
		if v.Repair != "" {
			n++
		}
	}
	return n
}

// finish prints the report, but for what is printed already, and returns the
// error that gives the command its exit code.
func (r *verifyReport) finish(w io.Writer, output format) error {
	var err error
	switch {
	case output == formatJSON:
		err = printJSON(w, r)
	case r.wasRepaired:
		err = r.printRepair(w)
	default:
		err = r.print(w)
	}
	return errors.Join(err, r.outcome())
}

func (r *verifyReport) outcome() error {
	n := len(r.Remaining)
	if n == 0 {
		return nil
	}
	err := errors.New(count(n, "violation"))
	switch {
	case r.wasRepaired:
		err = withHint(errors.New(count(n, "violation")+" left"), "what a repair can't do, a person has to: the details say what")
	case r.repairable() > 0:
		err = withHint(err, `repair with --repair --reason "..."; it shows its steps first`)
	}
	return &codedError{code: exitViolations, err: err}
}

func (r *verifyReport) print(w io.Writer) error {
	if len(r.Violations) == 0 {
		_, err := fmt.Fprintf(w, "%s breaks no rule\n", printable(r.Store))
		return err
	}
	return printViolations(w, r.Violations)
}

func (r *verifyReport) printRepair(w io.Writer) error {
	fmt.Fprintf(w, "\n%s repaired\n", count(len(r.Repaired), "violation"))
	if len(r.Remaining) == 0 {
		_, err := fmt.Fprintf(w, "%s breaks no rule now\n", printable(r.Store))
		return err
	}
	fmt.Fprintln(w, "\nleft:")
	return printViolations(w, r.Remaining)
}

func printViolations(w io.Writer, violations []api.Violation) error {
	rows := [][]string{{"RULE", "REPOSITORY", "RECORD", "WHAT IS WRONG", "REPAIR"}}
	for _, v := range violations {
		repair := v.Repair
		if repair == "" {
			repair = "none: a person has to decide"
		}
		rows = append(rows, []string{printable(v.Rule), dash(v.Repository), printable(v.Record), escape(v.Detail), escape(repair)})
	}
	return printTable(w, rows)
}
