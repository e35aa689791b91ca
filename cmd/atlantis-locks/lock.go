package main

import (
	"fmt"

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
  atlantis-locks lock acme/infra envs/prod default --pull 5 --host github.com`,
		Args: wantArgs("REPO", "PATH", "WORKSPACE"),
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	project := addProjectFlag(cmd)
	owner := addOwnerFlags(cmd)
	note := cmd.Flags().String("note", "", "what others are told who want the lock; no secrets")
	timeout := cmd.Flags().String("timeout", api.NoTimeout, "when the lock ends by itself, such as 30m; none: when it is unlocked")
	priority := cmd.Flags().String("priority", "normal", "low, normal, high or critical")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		holder, err := owner.owner(cmd, env)
		if err != nil {
			return err
		}
		resource := project.resource(args)
		lock, err := server.Acquire(cmd.Context(), api.AcquireRequest{
			Repository:  resource.Repository,
			Path:        resource.Path,
			Workspace:   resource.Workspace,
			ProjectName: resource.ProjectName,
			Owner:       holder,
			Priority:    *priority,
			Timeout:     *timeout,
			Note:        *note,
		})
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(env.stdout, lock)
		}
		_, err = fmt.Fprintf(env.stdout, "locked %s for %s, %s\nid %s\n",
			resourceText(lock), ownerText(lock), leaseText(lock, lock.AcquiredAt), printable(lock.ID))
		return err
	}
	return cmd
}
