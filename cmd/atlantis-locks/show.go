package main

import (
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

func newShowCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show (REPO PATH WORKSPACE | ID)",
		Short: "Show one lock",
		Long:  `Show the lock on a project, or the lock with an ID.`,
		Example: `  atlantis-locks show acme/infra envs/prod default
  atlantis-locks show 6b3a55e0261b0304143f805a24924d0c-1795381550211000`,
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	project := addProjectFlag(cmd)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) != 1:
			return wantProject(cmd, args)
		case args[0] == "":
			return usagef(cmd, "the ID is empty")
		case project.name != "":
			return usagef(cmd, "--project-name goes with REPO PATH WORKSPACE; an ID names one lock")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		var lock api.Lock
		if len(args) == 1 {
			lock, err = server.Get(cmd.Context(), args[0])
		} else {
			lock, err = server.Lookup(cmd.Context(), project.resource(args))
			err = keptInstead(cmd.Context(), server, project.resource(args), err)
		}
		if err != nil {
			return asUsage(cmd, err)
		}
		warnOfMode(cmd.Context(), env, server)
		if *output == formatJSON {
			return printJSON(env.stdout, lock)
		}
		return printFields(env.stdout, lockFields(lock, env.now()))
	}
	return cmd
}

func lockFields(lock api.Lock, now time.Time) [][]string {
	lease := "none, held until released"
	if lock.ExpiresAt != nil {
		lease = "ends " + timestamp(*lock.ExpiresAt, now)
	}
	fields := [][]string{
		{"repository", dash(lock.Repository)},
		{"path", dash(lock.Path)},
		{"workspace", dash(lock.Workspace)},
		{"project", dash(lock.ProjectName)},
		{"held by", ownerText(lock)},
		{"since", timestamp(lock.AcquiredAt, now)},
		{"lease", lease},
		{"note", dash(lock.Note)},
		{"priority", dash(lock.Priority)},
		{"token", dash(lock.Token)},
		{"id", dash(lock.ID)},
	}
	if lock.Owner.User == "" {
		fields = append(fields, []string{"requested by", dash(lock.RequestedBy)}, []string{"address", dash(lock.PullURL)})
	}
	return fields
}
