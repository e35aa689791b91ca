package main

import (
	"fmt"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newReplaceLocksCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replace-locks REPO WORKSPACE PATH...",
		Short: "Make several projects all that you have locked in a repository",
		Long: `Make the projects in the directories PATH of repository REPO, in Terraform workspace
WORKSPACE, all that you have locked in REPO, in one step. What you hold of them stays
as it is, the rest of them is locked, and what else you hold in REPO is unlocked, in
other workspaces, too. Where one is held by another nothing changes, and you are told
each that is and by whom.`,
		Example: `  atlantis-locks replace-locks acme/infra default envs/prod envs/staging
  atlantis-locks replace-locks acme/infra default a b c --pull 5`,
		Args: wantProjects,
	}
	owner := addOwnerFlags(cmd)
	wish := addWishFlags(cmd)
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (answer api.ReplacedLocks, err error) {
		request, err := setRequest(cmd, env, args, owner, wish)
		if err != nil {
			return answer, err
		}
		answer, err = server.ReplaceLocks(cmd.Context(), request)
		return answer, asUsage(cmd, err)
	}, func(replaced api.ReplacedLocks) error {
		return printReplaced(env, replaced)
	})
}

func printReplaced(env environment, replaced api.ReplacedLocks) error {
	taken := make(map[string]bool, len(replaced.Taken))
	for _, lock := range replaced.Taken {
		taken[lock.ID] = true
	}
	for _, lock := range replaced.Held {
		if taken[lock.ID] {
			if err := printLocked(env, lock); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(env.stdout, "kept %s for %s, %s\nid %s\n",
			resourceText(lock), ownerText(lock), leaseText(lock, lock.AcquiredAt), printable(lock.ID)); err != nil {
			return err
		}
	}
	for _, lock := range replaced.Freed {
		if _, err := fmt.Fprintf(env.stdout, "unlocked %s, held by %s\n", resourceText(lock), ownerText(lock)); err != nil {
			return err
		}
	}
	return nil
}
