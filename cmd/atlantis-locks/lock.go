package main

import (
	"context"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

func newLockCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lock REPO PATH WORKSPACE",
		Short: "Lock a project, to freeze it for maintenance for example",
		Long: `Lock the project in directory PATH of repository REPO, in Terraform workspace
WORKSPACE.

A lock of a user, with a note, freezes the project for maintenance: Atlantis
refuses to plan it and shows the note, until you unlock it. It does not end by
itself unless you ask for that with --timeout.`,
		Example: `  atlantis-locks lock acme/infra envs/prod default --note "database maintenance until noon"
  atlantis-locks lock acme/infra . staging --project-name vpc --timeout 30m
  atlantis-locks lock acme/infra envs/prod default --wait --priority high
  atlantis-locks lock acme/infra envs/prod default --pull 5 --host github.com`,
		Args: wantProject,
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	project := addProjectFlag(cmd)
	owner := addOwnerFlags(cmd)
	wish := addLockFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := wish.check(cmd); err != nil {
			return err
		}
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		holder, err := owner.owner(cmd, env)
		if err != nil {
			return err
		}
		resource := project.resource(args)
		take := server.Acquire
		if wish.wait {
			take = func(ctx context.Context, request api.AcquireRequest) (api.Lock, error) {
				return waitForLock(ctx, env, server, request)
			}
		}
		lock, err := take(cmd.Context(), api.AcquireRequest{
			Repository:  resource.Repository,
			Path:        resource.Path,
			Workspace:   resource.Workspace,
			ProjectName: resource.ProjectName,
			Owner:       holder,
			Priority:    wish.priority,
			Timeout:     wish.timeout,
			Note:        wish.note,
		})
		if err != nil {
			return asUsage(cmd, err)
		}
		warnOfMode(cmd.Context(), env, server)
		if *output == formatJSON {
			return printJSON(env.stdout, lock)
		}
		return printLocked(env, lock)
	}
	return cmd
}

// maxNote is how long a note can be.
const maxNote = enhanced.MaxMetadataBytes - len(enhanced.MetadataNote)

// leaseLimits says what a lease can be. The server has the last word.
func leaseLimits() string {
	longest := enhanced.DefaultConfig().MaxTimeout.String()
	return "1ms to " + strings.TrimSuffix(strings.TrimSuffix(longest, "0s"), "0m") + " (the server's limit, by default)"
}

// checkLockFlags refuses what no server would accept.
func checkLockFlags(cmd *cobra.Command, priority, note string) error {
	if _, err := enhanced.ParsePriority(priority); err != nil && cmd.Flags().Changed("priority") {
		return usagef(cmd, "--%v", err)
	}
	if len(note) > maxNote {
		return usagef(cmd, "--note %q... has %d bytes, at most %d are allowed", note[:40], len(note), maxNote)
	}
	return nil
}
