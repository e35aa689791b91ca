package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newModeCommand(env environment) *cobra.Command {
	return grouping(&cobra.Command{
		Use:   "mode",
		Short: "Show and set which database decides for all adapters of the store",
		Long: `Show and set which database decides about locks for all adapters of the store:

  off     Atlantis' own database; the store is not used
  shadow  Atlantis' own database; the same is done in the store and compared
  read    Atlantis' own database for changes; reads come from the store
  full    the store`,
	}, newModeGetCommand(env), newModeSetCommand(env), newModeForgetCommand(env))
}

func newModeGetCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Show the mode, and which adapters have followed it",
		Args:  wantArgs(),
	}
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, _ []string) (api.Fleet, error) {
		return server.Mode(cmd.Context())
	}, func(fleet api.Fleet) error { return printFleet(env, fleet) })
}

func newModeSetCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set MODE",
		Short: "Set the mode: off, shadow, read or full",
		Long: `Set the mode of all adapters of the store: off, shadow, read or full.

The adapters follow within seconds. Until all have, a lock needs the grants of
both databases, so that nobody is granted what another has. "mode get" tells who is
missing, and why. Where the store does not decide any longer, you are told first
which locks of users have no effect then.`,
		Example: `  atlantis-locks mode set shadow --reason "phase 2"`,
		Args:    wantArgs("MODE"),
	}
	reason := cmd.Flags().String("reason", "", "why the mode changes for everybody (required)")
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (fleet api.Fleet, err error) {
		actor, err := actorWithReason(cmd, env, *reason, "why the mode changes for everybody")
		if err != nil {
			return fleet, err
		}
		if !slices.Contains(enhanced.Modes(), enhanced.Mode(args[0])) {
			return fleet, usagef(cmd, "MODE %q is none of %s", args[0], modeNames())
		}
		before, err := server.Mode(cmd.Context())
		if err != nil {
			return fleet, err
		}
		warnOfUsersLocks(cmd.Context(), env, server, before, args[0])
		fleet, err = server.SetMode(cmd.Context(), api.ModeRequest{Mode: args[0], Actor: actor, Reason: *reason})
		if err == nil && before.Epoch == fleet.Epoch {
			_, err = fmt.Fprintf(env.stderr, "nothing has changed: the mode is %s already\n", printable(fleet.Mode))
		}
		return fleet, asUsage(cmd, err)
	}, func(fleet api.Fleet) error { return printFleet(env, fleet) })
}

// modeNames lists the modes that there are.
func modeNames() string {
	var names []string
	for _, m := range enhanced.Modes() {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

func newModeForgetCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget ADAPTER",
		Short: "Remove an adapter that does not run any longer",
		Long: `Remove an adapter that does not run any longer, so that a switch does not wait
for it. Be certain: one that runs may go on to decide by a database that nobody else
asks.`,
		Example: `  atlantis-locks mode forget atlantis-0 --reason "its machine is gone"`,
		Args:    wantArgs("ADAPTER"),
	}
	reason := cmd.Flags().String("reason", "", "why it is certain that the adapter does not run (required)")
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, args []string) (fleet api.Fleet, err error) {
		actor, err := actorWithReason(cmd, env, *reason, "why it is certain that the adapter does not run")
		if err != nil {
			return fleet, err
		}
		fleet, err = server.ForgetAdapter(cmd.Context(), api.ForgetRequest{Name: args[0], Actor: actor, Reason: *reason})
		return fleet, asUsage(cmd, err)
	}, func(fleet api.Fleet) error { return printFleet(env, fleet) })
}

// actorWithReason returns who acts, for a command that must say why.
func actorWithReason(cmd *cobra.Command, env environment, reason, why string) (string, error) {
	if strings.TrimSpace(reason) == "" {
		return "", usagef(cmd, "%s needs --reason: %s", cmd.CommandPath()[len(cmd.Root().Name())+1:], why)
	}
	actor, err := env.username()
	if err != nil {
		return "", usagef(cmd, "the name of your login is unknown")
	}
	return actor, nil
}

func printFleet(env environment, fleet api.Fleet) error {
	now := env.now()
	fields := [][]string{{"mode", cmp.Or(fleet.Mode, "none was set")}, {"epoch", strconv.FormatInt(fleet.Epoch, 10)}}
	if fleet.Since != nil {
		fields = append(fields, []string{"since", timestamp(*fleet.Since, now)}, []string{"set by", printable(fleet.Actor)},
			[]string{"reason", printable(fleet.Reason)})
	}
	fields = append(fields, []string{"a lock needs", needs(fleet)})
	if err := printFields(env.stdout, fields); err != nil || len(fleet.Adapters) == 0 {
		return err
	}
	rows := [][]string{{"ADAPTER", "MODE", "EPOCH", "SEEN", "DIFFERENCES", "PROBLEM"}}
	for _, a := range fleet.Adapters {
		rows = append(rows, []string{
			printable(a.Name), a.Mode, strconv.FormatInt(a.Epoch, 10), roughly(now.Sub(a.Seen)) + " ago",
			strconv.FormatInt(a.Differences, 10), dash(a.Problem),
		})
	}
	if err := printTable(env.stdout, rows); err != nil {
		return err
	}
	for _, a := range fleet.Adapters {
		for _, text := range a.Recent {
			if _, err := fmt.Fprintf(env.stdout, "%s: %s\n", printable(a.Name), printable(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

func needs(fleet api.Fleet) string {
	switch {
	case fleet.NeedsLegacy && fleet.NeedsStore:
		return "the grants of both databases, until all adapters have followed from " + fleet.From
	case fleet.NeedsLegacy:
		return "the grant of Atlantis' own database"
	default:
		return "the grant of the store"
	}
}
