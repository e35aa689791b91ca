package main

import (
	"fmt"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
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
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	repository := cmd.Flags().String("repo", "", "only locks of this repository")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		list, err := server.List(cmd.Context(), api.Filter{Repository: *repository})
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(env.stdout, list)
		}
		if len(list.Locks) == 0 {
			_, err := fmt.Fprintln(env.stdout, "nothing is locked")
			return err
		}
		return printTable(env.stdout, lockRows(list.Locks, env.now()))
	}
	return cmd
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
