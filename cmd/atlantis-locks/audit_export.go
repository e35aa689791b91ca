package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newAuditExportCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the log as lines of JSON whose hashes form a chain",
		Long: `Write the log of all repositories, or of one: one record in each line, repository
by repository. Each line has a hash that covers it and all lines before it;
"audit verify" finds what was changed since.

The final hash is printed to stderr. Keep it where whoever could change the file
can't: a file that was made anew, with new hashes, is found by nothing else.`,
		Example: `  atlantis-locks audit export --to audit-2026-01.jsonl
  atlantis-locks audit export --repo acme/infra | gzip >infra.jsonl.gz`,
		Args: wantArgs(),
	}
	connection := addConnectionFlag(cmd, env)
	repository := cmd.Flags().String("repo", "", "only the log of this repository")
	to := cmd.Flags().String("to", "", "write to this file, which must not be there yet (default: to stdout)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("to") && *to == "" {
			return usagef(cmd, "--to is empty")
		}
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		repositories, err := logRepositories(cmd.Context(), cmd, server, *repository)
		if err != nil {
			return err
		}
		e := &auditExport{env: env, server: server, repositories: repositories}
		if *to == "" {
			err = e.write(cmd.Context(), env.stdout)
		} else {
			err = e.writeFile(cmd.Context(), *to)
		}
		if err != nil {
			return err
		}
		if *repository != "" && e.records == 0 {
			fmt.Fprintf(env.stderr, "warning: the log has nothing of %s\n", printable(*repository))
		}
		fmt.Fprintf(env.stderr, "%s of %s\nfinal hash %s\n",
			count(e.records, "record"), countRepositories(len(repositories)), e.hash)
		return nil
	}
	return cmd
}

func countRepositories(n int) string {
	if n == 1 {
		return "1 repository"
	}
	return fmt.Sprintf("%d repositories", n)
}

// auditExport is one export, and what came of it.
type auditExport struct {
	env          environment
	server       *client.Client
	repositories []string

	records int
	hash    string
}

// writeFile writes a new file, and leaves none behind if it fails.
func (e *auditExport) writeFile(ctx context.Context, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return withHint(fmt.Errorf("%q is there already", path), "an export replaces nothing; choose another name")
	case err != nil:
		return fmt.Errorf("can't write %q: %w", path, withoutPath(err))
	}
	err = e.write(ctx, file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// write writes all of the export.
func (e *auditExport) write(ctx context.Context, w io.Writer) error {
	header := auditHeader{ExportedAt: e.env.now().UTC(), Server: e.server.Server(), Repositories: []auditRepository{}}
	for _, name := range e.repositories {
		page, err := e.server.Log(ctx, api.LogFilter{Repository: name, Limit: 1})
		if err != nil {
			return err
		}
		header.Repositories = append(header.Repositories, auditRepository{Repository: name, Trimmed: page.Trimmed})
	}
	buffered := bufio.NewWriter(w)
	a, err := newAuditWriter(buffered, header)
	for _, name := range e.repositories {
		if err == nil {
			err = e.writeRepository(ctx, a, name)
		}
	}
	if err == nil {
		e.hash, err = a.finish()
	}
	e.records = a.end.Records
	return errors.Join(err, buffered.Flush())
}

func (e *auditExport) writeRepository(ctx context.Context, a *auditWriter, name string) error {
	var last uint64
	begun := false
	return readLog(ctx, e.server, name, func(page api.LogPage) error {
		if !begun {
			begun, last = true, page.Trimmed
			a.repository(name, page.Trimmed)
		}
		for _, record := range page.Records {
			switch {
			case record.Sequence == last+1:
			case page.Trimmed > last:
				return withHint(fmt.Errorf("the log of %s was trimmed while it was read", printable(name)), "export again")
			default:
				fmt.Fprintf(e.env.stderr, "warning: the log of %s has a gap before record %d; %q says more\n",
					printable(name), record.Sequence, e.env.command("verify"))
			}
			last = record.Sequence
			if err := a.record(record); err != nil {
				return err
			}
		}
		return nil
	})
}
