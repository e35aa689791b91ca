package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

func newLockAllCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lock-all REPO WORKSPACE PATH...",
		Short: "Lock several projects, all or none",
		Long: `Lock the projects in the directories PATH of repository REPO, in Terraform
workspace WORKSPACE, all of them or none. Where one is held nothing is locked, and
you are told each that is held and by whom; what you hold yourself counts, too.`,
		Example: `  atlantis-locks lock-all acme/infra default envs/prod envs/staging --note "migration"
  atlantis-locks lock-all acme/infra default a b c --pull 5 --wait`,
		Args: wantProjects,
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	owner := addOwnerFlags(cmd)
	wish := addLockFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request, err := setRequest(cmd, env, args, owner, wish)
		if err != nil {
			return err
		}
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		take := server.AcquireAll
		if wish.wait {
			take = server.WaitAll
		}
		list, err := take(cmd.Context(), request)
		if err != nil && wish.wait && cmd.Context().Err() != nil {
			return leftQueue(cmd.Context())
		}
		if wish.wait {
			err = noQueue(request.Owner, err)
		}
		if err != nil {
			return asUsage(cmd, err)
		}
		if *output == formatJSON {
			return printJSON(env.stdout, list)
		}
		for _, lock := range list.Locks {
			if err := printLocked(env, lock); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// setRequest asks for the projects that the arguments name.
func setRequest(cmd *cobra.Command, env environment, args []string, owner *ownerFlags, wish *lockFlags) (api.AcquireAllRequest, error) {
	if err := wish.check(cmd); err != nil {
		return api.AcquireAllRequest{}, err
	}
	holder, err := owner.owner(cmd, env)
	if err != nil {
		return api.AcquireAllRequest{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return api.AcquireAllRequest{}, fmt.Errorf("making the request's ID: %w", err)
	}
	request := api.AcquireAllRequest{
		Repository: args[0], Owner: holder, Priority: wish.priority, Timeout: wish.timeout, Note: wish.note, RequestID: id.String(),
	}
	for _, path := range args[2:] {
		request.Projects = append(request.Projects, api.SetProject{Path: path, Workspace: args[1]})
	}
	return request, nil
}

// wantProjects checks that the arguments are REPO WORKSPACE PATH...
func wantProjects(cmd *cobra.Command, args []string) error {
	if len(args) < 3 {
		return usagef(cmd, "%s takes REPO WORKSPACE PATH..., got %d: %s", cmd.Name(), len(args), cmp.Or(printableAll(args), "nothing"))
	}
	if len(args)-2 > api.MaxSetSize {
		return usagef(cmd, "%d PATHs are given, at most %d can be locked at once", len(args)-2, api.MaxSetSize)
	}
	for _, path := range args[2:] {
		if err := checkProject(cmd, []string{args[0], path, args[1]}); err != nil {
			return err
		}
	}
	return nil
}

// lockFlags say how something is locked.
type lockFlags struct {
	note, timeout, priority string
	wait                    bool
}

func addLockFlags(cmd *cobra.Command) *lockFlags {
	f := addWishFlags(cmd)
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until it is your turn, if the server has a queue; Ctrl-C leaves it")
	return f
}

// addWishFlags are those of addLockFlags for what never waits.
func addWishFlags(cmd *cobra.Command) *lockFlags {
	var f lockFlags
	flags := cmd.Flags()
	flags.StringVar(&f.note, "note", "", fmt.Sprintf("what others are told who want the lock, at most %d bytes; no secrets", maxNote))
	flags.StringVar(&f.timeout, "timeout", api.NoTimeout, "when the lock ends by itself, such as 30m: after "+leaseLimits()+"; none: when it is unlocked")
	flags.StringVar(&f.priority, "priority", "", "low, normal, high or critical (default: what the server's rules give)")
	return &f
}

// check refuses what no server would accept.
func (f *lockFlags) check(cmd *cobra.Command) error {
	if lease, err := time.ParseDuration(f.timeout); f.timeout != api.NoTimeout && (err != nil || lease < time.Millisecond) {
		return usagef(cmd, "--timeout %q is no lease; give %s, such as 30m, or %s", f.timeout, leaseLimits(), api.NoTimeout)
	}
	return checkLockFlags(cmd, f.priority, f.note)
}

func printLocked(env environment, lock api.Lock) error {
	_, err := fmt.Fprintf(env.stdout, "locked %s for %s, %s\nid %s\n",
		resourceText(lock), ownerText(lock), leaseText(lock, lock.AcquiredAt), printable(lock.ID))
	return err
}
