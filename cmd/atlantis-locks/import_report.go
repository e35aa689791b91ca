package main

import (
	"errors"
	"fmt"
	"io"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// codeUnreadable is the code of a record that can't be read.
const codeUnreadable = "UNREADABLE"

// outcomePending marks a record that the import did not come to.
const outcomePending = "not tried"

// importReport is what an import did, as --output json shows it.
type importReport struct {
	File    string       `json:"file"`
	DryRun  bool         `json:"dry_run"`
	Counts  importCounts `json:"counts"`
	Records []importRow  `json:"records"`
}

// importCounts counts the records. Skipped includes HeldByAnother and Unreadable.
type importCounts struct {
	Records       int `json:"records"`
	Taken         int `json:"taken"`
	Already       int `json:"already"`
	Skipped       int `json:"skipped"`
	HeldByAnother int `json:"held_by_another"`
	Unreadable    int `json:"unreadable"`
	NotTried      int `json:"not_tried"`
}

// importRow is what became of one record.
type importRow struct {
	Key         string `json:"key"`
	Repository  string `json:"repository"`
	Path        string `json:"path"`
	Workspace   string `json:"workspace"`
	ProjectName string `json:"project_name"`
	Pull        int    `json:"pull"`
	Host        string `json:"host"`
	Outcome     string `json:"outcome"`
	LockID      string `json:"lock_id"`
	Code        string `json:"code"`
	Why         string `json:"why"`
}

// newImportReport returns the report before any record has been sent.
func newImportReport(file string, dryRun bool, records []stockRecord) *importReport {
	report := &importReport{File: file, DryRun: dryRun, Records: make([]importRow, len(records))}
	report.Counts.Records, report.Counts.NotTried = len(records), len(records)
	for i, record := range records {
		row := &report.Records[i]
		row.Key, row.Outcome = record.key, outcomePending
		if record.err != nil {
			report.enter(i, api.ImportResult{Outcome: api.OutcomeSkipped, Code: codeUnreadable, Why: record.err.Error()})
			continue
		}
		row.Repository, row.Path, row.ProjectName = record.lock.Project.RepoFullName, record.lock.Project.Path, record.lock.Project.ProjectName
		row.Workspace = record.lock.Workspace
		row.Pull, row.Host = record.lock.Pull.Num, record.lock.Pull.BaseRepo.VCSHost.Hostname
	}
	return report
}

// enter notes what became of the record in row i.
func (r *importReport) enter(i int, result api.ImportResult) {
	row := &r.Records[i]
	row.Outcome, row.LockID, row.Code, row.Why = result.Outcome, result.LockID, result.Code, result.Why
	r.Counts.NotTried--
	switch {
	case row.Outcome == api.OutcomeTaken:
		r.Counts.Taken++
	case row.Outcome == api.OutcomeAlready:
		r.Counts.Already++
	default:
		r.Counts.Skipped++
	}
	switch row.Code {
	case enhanced.ErrCodeLockExists:
		r.Counts.HeldByAnother++
	case codeUnreadable:
		r.Counts.Unreadable++
	}
}

func (r *importReport) print(w io.Writer) error {
	taken := "taken"
	if r.DryRun {
		taken = "would be taken"
	}
	if len(r.Records) > 0 {
		rows := [][]string{{"OUTCOME", "REPOSITORY", "PATH", "WORKSPACE", "PROJECT", "PULL REQUEST", "WHY"}}
		for _, row := range r.Records {
			rows = append(rows, row.cells(taken))
		}
		if err := printTable(w, rows); err != nil {
			return err
		}
		fmt.Fprintln(w) // the next line returns the error
	}
	c := r.Counts
	_, err := fmt.Fprintf(w, "%s in %s: %d %s, %d there already, %d skipped (%d held by another, %d unreadable)\n",
		count(c.Records, "record"), printable(r.File), c.Taken, taken, c.Already, c.Skipped, c.HeldByAnother, c.Unreadable)
	if err == nil && c.NotTried > 0 {
		_, err = fmt.Fprintf(w, "%s not tried\n", count(c.NotTried, "record"))
	}
	return err
}

func (row importRow) cells(taken string) []string {
	outcome := row.Outcome
	if outcome == api.OutcomeTaken {
		outcome = taken
	}
	if row.Code == codeUnreadable {
		return []string{outcome, "-", "-", "-", "-", "-", "record " + printable(row.Key) + " is unreadable: " + escape(row.Why)}
	}
	pull := fmt.Sprint(row.Pull)
	if row.Host != "" {
		pull += " on " + printable(row.Host)
	}
	return []string{outcome, dash(row.Repository), dash(row.Path), dash(row.Workspace), dash(row.ProjectName), pull, dash(row.Why)}
}

// outcome returns the error that gives the command its exit code, nil if each
// record is held for its pull request now.
func (r *importReport) outcome() error {
	c := r.Counts
	if c.Skipped == 0 {
		return nil
	}
	code := exitHeld
	if c.Skipped > c.HeldByAnother {
		code = exitError
	}
	return &codedError{code: code, err: withHint(
		errors.New(count(c.Skipped, "record")+" skipped"),
		"the report says why; the import can be repeated")}
}
