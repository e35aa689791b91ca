package main

import (
	"context"
	"errors"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newAuditCommand(env environment) *cobra.Command {
	return grouping(&cobra.Command{
		Use:   "audit",
		Short: "Read the log of all changes, keep it, and check what was kept",
		Long: `Every change of a lock has one record in its repository's log: who did what, when,
through what and why, and the lock before and after. The log is bounded by age
and size; an export keeps what is in it now.`,
	}, newAuditListCommand(env), newAuditExportCommand(env), newAuditVerifyCommand(env))
}

// logRepositories returns the repository that was asked for, or all that have
// a log.
func logRepositories(ctx context.Context, cmd *cobra.Command, server *client.Client, repository string) ([]string, error) {
	if cmd.Flags().Changed("repo") {
		return []string{repository}, nil
	}
	list, err := server.Repositories(ctx)
	return list.Repositories, err
}

// readLog calls each with the pages of a repository's log, in order.
func readLog(ctx context.Context, server *client.Client, repository string, each func(api.LogPage) error) error {
	var after uint64
	for {
		page, err := server.Log(ctx, api.LogFilter{Repository: repository, After: after, Limit: api.MaxLogRecords})
		if err != nil {
			return err
		}
		if page.More && len(page.Records) == 0 {
			return errors.New("the server answered a page of the log without records, and says that there are more")
		}
		if err := each(page); err != nil || !page.More {
			return err
		}
		after = page.Records[len(page.Records)-1].Sequence
	}
}
