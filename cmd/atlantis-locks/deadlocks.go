package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newDeadlocksCommand(env environment) *cobra.Command {
	return grouping(&cobra.Command{
		Use:   "deadlocks",
		Short: "Show who has waited for each other, and what was done about it",
		Long: `Owners that hold a lock and wait for one of the other wait for ever. What was
done about that has a record in the repository's log, which is the history: it is
bounded by age and size.`,
	}, newDeadlocksListCommand(env), newDeadlocksShowCommand(env), newDeadlocksGraphCommand(env))
}

func newDeadlocksListCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deadlocks, the latest last, and those that come again and again",
		Example: `  atlantis-locks deadlocks list
  atlantis-locks deadlocks list --repo acme/infra --since 720h`,
		Args: wantArgs(),
	}
	repository := cmd.Flags().String("repo", "", "only those in this repository")
	since := cmd.Flags().String("since", "168h", "only those since then: a duration back from now such as 24h, a day or a time as in RFC 3339")
	var from time.Time
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, _ []string) (api.DeadlockList, error) {
		var ok bool
		from, ok = parseSince(*since, env.now())
		if !ok {
			return api.DeadlockList{}, usagef(cmd, "--since %s is neither a duration such as 24h, nor a day such as 2026-01-31, nor a time such as 2026-01-31T15:04:05Z", printable(*since))
		}
		return server.Deadlocks(cmd.Context(), *repository, from)
	}, func(list api.DeadlockList) error {
		if err := printList(env, deadlockRows(list.Deadlocks), "no deadlocks since "+from.UTC().Format("2006-01-02 15:04:05Z")); err != nil || len(list.Patterns) == 0 {
			return err
		}
		lines := []string{"", "again and again:"}
		for _, p := range list.Patterns {
			lines = append(lines, "  "+printable(p.Text))
		}
		_, err := fmt.Fprintln(env.stdout, strings.Join(lines, "\n"))
		return err
	})
}

func deadlockRows(records []api.LogRecord) [][]string {
	rows := [][]string{{"TIME", "REPOSITORY", "RECORD", "OUTCOME", "POLICY", "WHO", "FOR", "PATHS"}}
	for _, r := range records {
		if r.Deadlock == nil {
			continue
		}
		var paths []string
		for _, w := range r.Deadlock.Cycle {
			if !slices.Contains(paths, w.Path) {
				paths = append(paths, w.Path)
			}
		}
		rows = append(rows, []string{
			r.Time.UTC().Format("2006-01-02 15:04:05Z"), dash(r.Repository), strconv.FormatUint(r.Sequence, 10),
			dash(r.Deadlock.Outcome), dash(r.Deadlock.Policy), printable(enhanced.DescribeOwner(r.Waiter)),
			waitedText(r), printable(strings.Join(paths, ", ")),
		})
	}
	return rows
}

// waitedText is how long the request had waited that the record is about.
func waitedText(r api.LogRecord) string {
	for _, w := range append(slices.Clone(r.Deadlock.Cycle), r.Deadlock.Moved...) {
		if w.RequestID == r.RequestID {
			return roughly(r.Time.Sub(w.Since))
		}
	}
	return dash("")
}

func newDeadlocksShowCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show REPO RECORD",
		Short:   "Show one deadlock",
		Example: `  atlantis-locks deadlocks show acme/infra 17`,
		Args:    wantArgs("REPO", "RECORD"),
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := deadlockRecord(cmd, env, connection, args)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(env.stdout, r)
		}
		fields := [][]string{
			{"time", r.Time.UTC().Format("2006-01-02 15:04:05Z")},
			{"outcome", dash(r.Deadlock.Outcome)},
			{"policy", dash(r.Deadlock.Policy)},
			{"about", printable(enhanced.DescribeOwner(r.Waiter))},
			{"waited", waitedText(r)},
		}
		for _, e := range cycleOf(r.Deadlock) {
			fields = append(fields, []string{"circle", printable(deadlock.Cycle{e}.String())})
		}
		for _, w := range r.Deadlock.Moved {
			fields = append(fields, []string{"moved to the front", printable(enhanced.DescribeOwner(w.OwnerID) + " for " + waitResource(w))})
		}
		return printFields(env.stdout, fields)
	}
	return cmd
}

func newDeadlocksGraphCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "graph REPO RECORD",
		Short: "Draw one deadlock as a graph",
		Long:  `Draw one deadlock as a graph, whose dashed or dotted edges are places in a queue.`,
		Example: `  atlantis-locks deadlocks graph acme/infra 17 --format dot | dot -Tsvg -o deadlock.svg
  atlantis-locks deadlocks graph acme/infra 17 --format mermaid`,
		Args: wantArgs("REPO", "RECORD"),
	}
	connection := addConnectionFlag(cmd, env)
	format := cmd.Flags().String("format", "text", "text, dot (Graphviz) or mermaid")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains([]string{"text", "dot", "mermaid"}, *format) {
			return usagef(cmd, "--format %s is none of text, dot, mermaid", printable(*format))
		}
		r, err := deadlockRecord(cmd, env, connection, args)
		if err != nil {
			return err
		}
		cycle := cycleOf(r.Deadlock)
		var text string
		switch *format {
		case "dot":
			text = cycle.DOT()
		case "mermaid":
			text = cycle.Mermaid()
		default:
			var lines strings.Builder
			for _, e := range cycle {
				fmt.Fprintf(&lines, "%s --[%s]--> %s\n", printable(e.Owner), printable(e.Resource), printable(e.For))
			}
			text = lines.String()
		}
		_, err = fmt.Fprint(env.stdout, text)
		return err
	}
	return cmd
}

// deadlockRecord returns the record of a deadlock that the arguments name.
func deadlockRecord(cmd *cobra.Command, env environment, connection *connection, args []string) (api.LogRecord, error) {
	sequence, err := strconv.ParseUint(args[1], 10, 53)
	if err != nil || sequence == 0 {
		return api.LogRecord{}, usagef(cmd, "RECORD %s is not a number from 1; %q shows them", printable(args[1]), env.command("deadlocks list"))
	}
	server, err := connection.client(cmd)
	if err != nil {
		return api.LogRecord{}, err
	}
	page, err := server.Log(cmd.Context(), api.LogFilter{Repository: args[0], After: sequence - 1, Limit: 1})
	if err != nil {
		return api.LogRecord{}, err
	}
	if len(page.Records) == 0 || page.Records[0].Sequence != sequence || page.Records[0].Deadlock == nil {
		return api.LogRecord{}, &codedError{exitNotFound, withHint(fmt.Errorf("record %d of %s is no deadlock", sequence, printable(args[0])),
			"%q shows those that the log has", env.command("deadlocks list"))}
	}
	return page.Records[0], nil
}

// cycleOf returns the circle with names for people, without what a terminal would
// take for more than a name.
func cycleOf(d *api.Deadlock) deadlock.Cycle {
	cycle := make(deadlock.Cycle, 0, len(d.Cycle))
	for _, w := range d.Cycle {
		cycle = append(cycle, deadlock.Edge{
			Waiter: deadlock.Waiter{
				Owner: printable(enhanced.DescribeOwner(w.OwnerID)), Resource: printable(waitResource(w)),
				Request: w.RequestID, Since: w.Since,
			},
			For: printable(enhanced.DescribeOwner(w.WaitsFor)), Soft: w.Behind,
		})
	}
	return cycle
}

func waitResource(w api.DeadlockWait) string {
	return enhanced.ResourceIdentifier{
		Type: enhanced.ResourceType(w.Type), Namespace: w.Repository, Path: w.Path, Workspace: w.Workspace, Name: w.ProjectName,
	}.String()
}
