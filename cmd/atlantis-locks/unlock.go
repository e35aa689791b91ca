package main

import (
	"fmt"
	"strings"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

func newUnlockCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unlock (REPO PATH WORKSPACE | --id ID)",
		Short: "Release a lock",
		Long: `Release your lock, or with --pull that of a pull request. A lock of somebody else
is released with --force only: that needs a reason, which is logged with your
name, and says whose lock it was.`,
		Example: `  atlantis-locks unlock acme/infra envs/prod default
  atlantis-locks unlock acme/infra envs/prod default --force --reason "alice is on holiday"`,
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	project := addProjectFlag(cmd)
	owner := addOwnerFlags(cmd)
	id := cmd.Flags().String("id", "", `the lock's ID, as "show" and --output json have it`)
	force := cmd.Flags().Bool("force", false, "release it whoever holds it")
	reason := cmd.Flags().String("reason", "", "why you override the owner, with --force")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("id"):
			return wantProject(cmd, args)
		case *id == "":
			return usagef(cmd, "--id is empty")
		case len(args) > 0 || project.name != "":
			return usagef(cmd, "--id names one lock; give it or REPO PATH WORKSPACE")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		request := api.UnlockRequest{ID: *id}
		if len(args) > 0 {
			r := project.resource(args)
			request.Repository, request.Path, request.Workspace, request.ProjectName = r.Repository, r.Path, r.Workspace, r.ProjectName
		}
		switch {
		case *force && strings.TrimSpace(*reason) == "":
			return usagef(cmd, "--force needs --reason: why you override the owner")
		case *force && cmd.Flags().Changed("pull"):
			return usagef(cmd, "--force and --pull exclude each other: force releases whoever holds the lock")
		case *force:
			request.Force, request.Reason = true, *reason
			request.Actor, err = owner.userName(cmd, env)
		case *reason != "":
			return usagef(cmd, "--reason is for --force; an owner needs none")
		default:
			var holder api.Owner
			holder, err = owner.owner(cmd, env)
			request.Owner = &holder
		}
		if err != nil {
			return err
		}
		answer, err := server.Unlock(cmd.Context(), request)
		if err != nil {
			return asUsage(cmd, err)
		}
		if *output == formatJSON {
			return printJSON(env.stdout, answer)
		}
		return printUnlocked(env, answer)
	}
	return cmd
}

func printUnlocked(env environment, answer api.Unlocked) error {
	lock := answer.Lock
	what := fmt.Sprintf("unlocked %s, held by %s for %s", resourceText(lock), ownerText(lock), roughly(env.now().Sub(lock.AcquiredAt)))
	if answer.Forced {
		what = fmt.Sprintf("unlocked %s: overrode %s, who held it for %s", resourceText(lock), ownerText(lock), roughly(env.now().Sub(lock.AcquiredAt)))
		if lock.Note != "" {
			what += " (note: " + printable(lock.Note) + ")"
		}
	}
	if lock.AcquiredAt.IsZero() {
		what = fmt.Sprintf("%s was unlocked before, held by %s", resourceText(lock), ownerText(lock))
	}
	_, err := fmt.Fprintln(env.stdout, what)
	return err
}
