package main

import (
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newListCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is locked",
		Example: `  atlantis-locks list
  atlantis-locks list --repo acme/infra --output json`,
		Args: wantArgs(),
	}
	repository := cmd.Flags().String("repo", "", "only locks of this repository")
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, _ []string) (api.LockList, error) {
		return server.List(cmd.Context(), api.Filter{Repository: *repository})
	}, func(list api.LockList) error {
		return printList(env, lockRows(list.Locks, env.now()), "nothing is locked")
	})
}

func lockRows(locks []api.Lock, now time.Time) [][]string {
	rows := [][]string{{"REPOSITORY", "PATH", "WORKSPACE", "PROJECT", "HELD BY", "FOR", "LEASE", "NOTE"}}
	for _, lock := range locks {
		rows = append(rows, []string{
			dash(lock.Repository), dash(lock.Path), dash(lock.Workspace), dash(lock.ProjectName),
			ownerText(lock), roughly(now.Sub(lock.AcquiredAt)), leaseText(lock, now), dash(lock.Note),
		})
	}
	return rows
}
