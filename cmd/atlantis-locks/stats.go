package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

func newStatsCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show the figures of the store and the server",
		Args:  wantArgs(),
	}
	return asking(cmd, env, func(cmd *cobra.Command, server *client.Client, _ []string) (api.Stats, error) {
		return server.Stats(cmd.Context())
	}, func(stats api.Stats) error {
		return printFields(env.stdout, statsFields(stats))
	})
}

func statsFields(s api.Stats) [][]string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	fields := [][]string{
		{"health", fmt.Sprintf("%d of 100", s.HealthScore)},
		{"locks held", strconv.Itoa(s.ActiveLocks)},
		{"waiting", strconv.Itoa(s.QueueDepth)},
		{"unreadable records", strconv.Itoa(len(s.UnreadableRecords))},
		{"requests since start", number(s.TotalRequests)},
		{"  granted", number(s.SuccessfulAcquires)},
		{"  refused", number(s.Refused)},
		{"  failed in the store", number(s.StoreFailures)},
		{"retries", number(s.Retries)},
		{"servers not asked", strconv.Itoa(s.OpenCircuits)},
		{"released", number(s.Releases)},
		{"expired", number(s.Expirations)},
		{"waits not checked for deadlocks", number(s.UncheckedWaits)},
		{"average wait", seconds(s.AverageWaitSeconds).Round(time.Microsecond).String()},
		{"average hold", roughly(seconds(s.AverageHoldSeconds))},
		{"recent store failures", fmt.Sprintf("%.0f%%", 100*s.RecentFailureRate)},
		{"events dropped", number(s.DroppedEvents)},
	}
	for _, name := range s.UnreadableRecords {
		fields = append(fields, []string{"unreadable, counts as held", printable(name)})
	}
	return fields
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
