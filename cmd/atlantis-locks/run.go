package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

// Exit codes of run that are not the command's. They are at the end of what a
// program can answer, as those of timeout(1) are.
const (
	runNotLocked  = 123 // somebody else has the lock
	runLost       = 124
	runFailed     = 125 // before the command started
	runNotRunable = 126
	runNotFound   = 127
)

// What the command of run finds in its environment.
const (
	lockIDVariable = "ATLANTIS_LOCKS_LOCK_ID"
	tokenVariable  = "ATLANTIS_LOCKS_TOKEN"
)

// longestGrace is the default of --grace for long leases.
const longestGrace = 10 * time.Second

// runReleaseTimeout bounds the release after the command.
const runReleaseTimeout = 5 * time.Second

// runFlags are the flags of run that lock does not have.
type runFlags struct {
	lease, grace, maxHold, timeout time.Duration
	wait                           bool
	priority, note                 string
}

func newRunCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run REPO PATH WORKSPACE -- COMMAND [ARGS...]",
		Short: "Hold a lock while a command runs",
		Long: `Lock the project in directory PATH of repository REPO, in Terraform workspace
WORKSPACE, run COMMAND, and unlock the project when it ends, however it ends.

The lock has a lease, which is renewed while this program lives. Is it lost, since
the server can't be reached or somebody unlocked it by force, then the command's
processes get SIGTERM, and SIGKILL after --grace: while the lease still runs, unless
it was taken away. Signals are passed on to the command. The command finds
` + lockIDVariable + ` and the fencing token, ` + tokenVariable + `, in its environment:
what must never be changed by two holders compares tokens, since no lease can
promise that one who is paused does nothing when he wakes up.

With a terminal as its input the command stays in the terminal's process group,
so that Ctrl-C and questions work, and signals reach only the command itself.

Exit codes:
  123  not started: somebody else holds the lock
  124  the lock was lost, and the command was ended
  125  not started: wrong usage, server not reachable, interrupted, denied
  126  not started: COMMAND can't be run
  127  not started: COMMAND not found
  else the command's; 128+N if signal N ended it`,
		Example: `  atlantis-locks run acme/infra envs/prod default -- terraform apply
  atlantis-locks run acme/infra envs/prod default --wait --timeout 10m --max-hold 1h -- ./migrate.sh`,
	}
	fails := func(cmd *cobra.Command, err error) error { return notStarted(err) }
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return fails(cmd, usagef(cmd, "%v", err)) })
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if at := cmd.ArgsLenAtDash(); at != 3 || len(args) < 4 {
			return fails(cmd, usagef(cmd, "run takes REPO PATH WORKSPACE -- COMMAND [ARGS...], got %s", printableAll(args)))
		}
		return fails(cmd, wantProject(cmd, args[:3]))
	}
	connection := addConnectionFlag(cmd, env)
	project := addProjectFlag(cmd)
	owner := addOwnerFlags(cmd)
	var flags runFlags
	cmd.Flags().DurationVar(&flags.lease, "lease", enhanced.DefaultHandleLease, "how long the lock outlives this program if it is killed: "+leaseLimits())
	cmd.Flags().DurationVar(&flags.grace, "grace", 0, "how long the command has to end when the lock is lost, at most 2/5 of the lease (default: a sixth of it, at most 10s)")
	cmd.Flags().DurationVar(&flags.maxHold, "max-hold", 0, "how long the lock is held at most; then the command is ended as if it were lost (default: no limit)")
	cmd.Flags().StringVar(&flags.note, "note", "", fmt.Sprintf("what others are told who want the lock, at most %d bytes; no secrets", maxNote))
	cmd.Flags().StringVar(&flags.priority, "priority", "", "low, normal, high or critical (default: what the server's rules give)")
	cmd.Flags().BoolVar(&flags.wait, "wait", false, "wait until it is your turn, if the server has a queue; Ctrl-C leaves it")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 0, "how long to --wait at most (default: as long as the queue allows)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := flags.check(cmd); err != nil {
			return notStarted(err)
		}
		server, err := connection.client(cmd)
		if err != nil {
			return notStarted(err)
		}
		holder, err := owner.owner(cmd, env)
		if err != nil {
			return notStarted(err)
		}
		resource := project.resource(args)
		r := &remote{server: server, take: server.Acquire, request: api.AcquireRequest{
			Repository: resource.Repository, Path: resource.Path, Workspace: resource.Workspace, ProjectName: resource.ProjectName,
			Owner: holder, Priority: flags.priority, Note: flags.note,
		}}
		if flags.wait {
			r.take = func(ctx context.Context, request api.AcquireRequest) (api.Lock, error) {
				return waitForLock(ctx, env, server, request)
			}
		}
		return holdAndRun(cmd, env, r, flags, args[3:])
	}
	return cmd
}

// check refuses what no server would accept, and fills in what was not given.
func (f *runFlags) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	if f.lease < time.Millisecond {
		return usagef(cmd, "--lease %v is no lease; give %s, such as 30s", f.lease, leaseLimits())
	}
	if !given("grace") {
		f.grace = min(longestGrace, f.lease/6)
	}
	switch {
	case f.grace < 0 || f.grace > f.lease*2/5:
		return usagef(cmd, "--grace %v does not fit --lease %v: give 0s to %v, or another lease", f.grace, f.lease, f.lease*2/5)
	case f.maxHold != 0 && f.maxHold < f.lease:
		return usagef(cmd, "--max-hold %v is below --lease %v: give 0s for no limit, or a shorter lease", f.maxHold, f.lease)
	case given("timeout") && !f.wait:
		return usagef(cmd, "--timeout is how long to --wait; give --wait too, or --lease for how long the lock outlives this program")
	case given("timeout") && f.timeout <= 0:
		return usagef(cmd, "--timeout %v is no time to wait; give one such as 10m", f.timeout)
	}
	return checkLockFlags(cmd, f.priority, f.note)
}

// holdAndRun runs a command under a lock.
func holdAndRun(cmd *cobra.Command, env environment, r *remote, flags runFlags, args []string) error {
	command := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // it is what is asked for, and supervise ends it
	if command.Err != nil {
		return cannotRun(command.Err)
	}
	h, err := r.hold(cmd.Context(), flags)
	if err != nil {
		return notStarted(leaseUsage(asUsage(cmd, err)))
	}
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, env.stdout, env.stderr
	command.Env = append(os.Environ(), lockIDVariable+"="+h.Lock().ID, fmt.Sprintf("%s=%d", tokenVariable, h.Token()))
	result := supervise(cmd.Context(), command, h, flags.grace, func(loss error) {
		fmt.Fprintf(env.stderr, "%s: %s; ending the command\n", programName, escape(loss.Error()))
	})

	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), runReleaseTimeout)
	defer cancel()
	err = h.Release(ctx)
	switch {
	case result.lost:
		return &commandExit{runLost} // it was said
	case errors.Is(err, enhanced.ErrLockLost):
		return &codedError{runLost, fmt.Errorf("%w; it was lost before the command ended", err)}
	case err != nil:
		fmt.Fprintf(env.stderr, "%s: the lock was not released, its lease ends it within %v: %s\n", programName, flags.lease, escape(err.Error()))
	}
	return result.err
}

// notStarted gives an error before the command has started its exit code.
func notStarted(err error) error {
	switch {
	case err == nil:
		return nil
	case exitCode(err) == exitHeld, errors.Is(err, context.DeadlineExceeded) && exitCode(err) != exitUnreachable:
		return &codedError{runNotLocked, err}
	default:
		return &codedError{runFailed, err}
	}
}

// leaseUsage names the lease of run, which is the timeout of lock.
func leaseUsage(err error) error {
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		usage.message = strings.Replace(usage.message, "--timeout ", "--lease ", 1)
	}
	return err
}

// cannotRun gives the reason for which a command can't be run its exit code.
func cannotRun(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &codedError{runNotFound, err}
	}
	return &codedError{runNotRunable, err}
}
