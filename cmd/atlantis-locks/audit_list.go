package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

// auditList is the answer of audit list, as --output json shows it.
type auditList struct {
	Records []api.LogRecord `json:"records"`
}

// auditFilter chooses log records. Its zero value chooses all.
type auditFilter struct {
	owner string
	kind  string
	since time.Time
}

func newAuditListCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what changed, the latest last",
		Example: `  atlantis-locks audit list --repo acme/infra --since 24h
  atlantis-locks audit list --owner pr:github.com/acme%2Finfra/5
  atlantis-locks audit list --type released --since 2026-01-31`,
		Args: wantArgs(),
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	repository := cmd.Flags().String("repo", "", "only changes in this repository")
	owner := cmd.Flags().String("owner", "", "only what this owner did, or what was done to its locks, such as user:alice")
	kind := cmd.Flags().String("type", "", "only this type of change: "+strings.Join(logTypes(), ", "))
	since := cmd.Flags().String("since", "", "only changes since then: a duration back from now such as 24h, a day or a time as in RFC 3339")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := newAuditFilter(cmd, *owner, *kind, *since, env.now())
		if err != nil {
			return err
		}
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		repositories, err := logRepositories(cmd.Context(), cmd, server, *repository)
		if err != nil {
			return err
		}
		list := auditList{Records: []api.LogRecord{}}
		for _, name := range repositories {
			err := readLog(cmd.Context(), server, name, func(page api.LogPage) error {
				for _, record := range page.Records {
					if filter.chooses(record) {
						list.Records = append(list.Records, record)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		// Stable: the records of one repository stay in their order.
		slices.SortStableFunc(list.Records, func(x, y api.LogRecord) int { return x.Time.Compare(y.Time) })
		if *output == formatJSON {
			return printJSON(env.stdout, list)
		}
		return printList(env, recordRows(list.Records), "the log has no such change")
	}
	return cmd
}

// logTypes are the types that a log record can have.
func logTypes() []string {
	return []string{
		enhanced.EventAcquired, enhanced.EventReleased, enhanced.EventTimeout, enhanced.EventRefreshed,
		enhanced.EventTransferred, enhanced.EventAdopted, enhanced.EventConflict,
		enhanced.EventQueued, enhanced.EventGranted, enhanced.EventCancelled, enhanced.EventQueueTimeout, enhanced.EventMoved,
		enhanced.EventClaimed, enhanced.EventClaimExpired, enhanced.EventReserved, enhanced.EventReservationEnded,
		enhanced.EventDeadlock,
		enhanced.EventRepaired, enhanced.EventUnreadable,
	}
}

func newAuditFilter(cmd *cobra.Command, owner, kind, since string, now time.Time) (auditFilter, error) {
	filter := auditFilter{owner: owner, kind: kind}
	if cmd.Flags().Changed("owner") {
		if _, err := enhanced.ParseOwner(owner); err != nil {
			return filter, usagef(cmd, "--owner: %v", err)
		}
	}
	if cmd.Flags().Changed("type") && !slices.Contains(logTypes(), kind) {
		return filter, usagef(cmd, "--type %s is none of %s", printable(kind), strings.Join(logTypes(), ", "))
	}
	if cmd.Flags().Changed("since") {
		at, ok := parseSince(since, now)
		if !ok {
			return filter, usagef(cmd, "--since %s is neither a duration such as 24h, nor a day such as 2026-01-31, nor a time such as 2026-01-31T15:04:05Z", printable(since))
		}
		filter.since = at
	}
	return filter, nil
}

// parseSince reads a duration back from now, a local day, or a time.
func parseSince(text string, now time.Time) (time.Time, bool) {
	if back, err := time.ParseDuration(text); err == nil {
		return now.Add(-back), back >= 0
	}
	if day, err := time.ParseInLocation(time.DateOnly, text, now.Location()); err == nil {
		return day, true
	}
	at, err := time.Parse(time.RFC3339, text)
	return at, err == nil
}

func (f auditFilter) chooses(r api.LogRecord) bool {
	isOwners := f.owner == "" || r.Actor == f.owner || r.Waiter == f.owner ||
		r.Before != nil && r.Before.OwnerID == f.owner || r.After != nil && r.After.OwnerID == f.owner
	// A record that can't be read has no time, and could be any.
	isSince := !r.Time.Before(f.since) || r.Type == enhanced.EventUnreadable
	return isOwners && isSince && (f.kind == "" || r.Type == f.kind)
}

func recordRows(records []api.LogRecord) [][]string {
	rows := [][]string{{"TIME", "REPOSITORY", "RECORD", "CHANGE", "PATH", "WORKSPACE", "PROJECT", "OWNER", "BY", "CAUSE", "REASON"}}
	for _, r := range records {
		at := "-"
		if !r.Time.IsZero() {
			at = r.Time.UTC().Format("2006-01-02 15:04:05Z")
		}
		rows = append(rows, []string{
			at, dash(r.Repository), strconv.FormatUint(r.Sequence, 10), printable(r.Type),
			dash(r.Path), dash(r.Workspace), dash(r.ProjectName),
			changedOwner(r), dash(r.Actor), dash(r.Cause), dash(r.Reason),
		})
	}
	return rows
}

// changedOwner describes the owner of the lock, before and after where it
// changed, or the one who waits for it.
func changedOwner(r api.LogRecord) string {
	switch {
	case r.Before == nil && r.After == nil:
		return dash(r.Waiter)
	case r.Before == nil:
		return printable(r.After.OwnerID)
	case r.After == nil || r.After.OwnerID == r.Before.OwnerID:
		return printable(r.Before.OwnerID)
	default:
		return printable(r.Before.OwnerID) + " -> " + printable(r.After.OwnerID)
	}
}
