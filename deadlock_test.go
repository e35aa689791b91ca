package enhanced_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// wants asks for a pull request as Atlantis does, which leaves a waiter.
func wants(t *testing.T, b enhanced.Backend, repository string, number int, path string) bool {
	t.Helper()
	p := models.PullRequest{Num: number, BaseRepo: models.Repo{FullName: repository, VCSHost: models.VCSHost{Hostname: host}}}
	_, acquired, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
		Project: models.NewProject(repository, path, ""), Workspace: workspace, Pull: &p, Timeout: enhanced.NoTimeout, Detached: true,
	})
	require.NoError(t, err)
	return acquired
}

func TestDeadlockHistory(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.DeadlockPrevention = true, true
	b := newBackend(t, config)
	start := time.Now().Add(-time.Minute)
	for _, repository := range []string{"org/app", "org/infra"} {
		for pair := range 2 { // of pull requests on the same paths
			first, second := 2*pair+1, 2*pair+2
			require.True(t, wants(t, b, repository, first, "vpc"))
			require.True(t, wants(t, b, repository, second, "db"))
			require.False(t, wants(t, b, repository, first, "db"))
			require.False(t, wants(t, b, repository, second, "vpc"))
			for _, number := range []int{second, first} {
				_, err := b.ReleaseByPull(t.Context(), repository, number, enhanced.SystemAtlantis)
				require.NoError(t, err)
			}
		}
		if repository == "org/app" {
			// A third one, on other paths.
			require.True(t, wants(t, b, repository, 7, "vpc"))
			require.True(t, wants(t, b, repository, 8, "dns"))
			require.False(t, wants(t, b, repository, 7, "dns"))
			require.False(t, wants(t, b, repository, 8, "vpc"))
		}
	}

	records, err := enhanced.ReadDeadlocks(t.Context(), b, "", start)
	require.NoError(t, err)
	require.Len(t, records, 5)
	one, err := enhanced.ReadDeadlocks(t.Context(), b, "org/infra", start)
	require.NoError(t, err)
	require.Len(t, one, 2)
	later, err := enhanced.ReadDeadlocks(t.Context(), b, "", time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Empty(t, later)

	patterns := enhanced.SumDeadlocks(records)
	require.Len(t, patterns, 2, "the third one came once")
	require.Equal(t, 2, patterns[0].Count)
	require.Equal(t, "2 deadlocks on org/app (path db, workspace default) and org/app (path vpc, workspace default): "+
		"lock them together, or always in this order", patterns[0].String())
	require.True(t, patterns[0].Last.After(patterns[0].First))
	require.Equal(t, "org/infra", patterns[1].Resources[0].Namespace)
	require.Empty(t, enhanced.SumDeadlocks(nil))
}

// The message names all of a short circle, and what matters of a long one.
func TestDeadlockMessage(t *testing.T) {
	t.Parallel()
	var cycle deadlock.Cycle
	for i := range 100 {
		cycle = append(cycle, deadlock.Edge{
			Waiter: deadlock.Waiter{
				Owner: enhanced.UserOwner(fmt.Sprint("u", i)).String(), Request: fmt.Sprint(i), Since: time.Unix(int64(i), 0),
				Resource: enhanced.FormatGraphResource(enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeProject, Namespace: repo, Path: fmt.Sprint("p", i), Workspace: workspace}),
			},
			For: enhanced.UserOwner(fmt.Sprint("u", (i+1)%100)).String(), Soft: i%2 == 1,
		})
	}
	report, err := enhanced.NewDeadlockReport(enhanced.DeadlockVictim, enhanced.PolicyOldest, cycle, []deadlock.Waiter{cycle[3].Waiter})
	require.NoError(t, err)
	require.Len(t, report.Cycle, 100)
	require.Equal(t, "p3", report.Moved[0].Resource.Path)
	require.True(t, report.Cycle[1].Behind)
	message := enhanced.NewDeadlockError(report.Cycle[0].Resource, report.Cycle[0].Owner, report, nil).Error()
	require.Contains(t, message, "by the policy oldest")
	require.Contains(t, message, "user u1 waits for org/app (path p1, workspace default), in the queue behind user u2")
	require.Contains(t, message, "and so on for 92 more waits, back to user u0")
	require.Less(t, len(message), 2000)
	require.NotContains(t, message, "user u50")
	require.True(t, strings.HasPrefix(report.Graph().DOT(), "digraph deadlock {\n  \"user u0\" -> \"user u1\""))

	cycle[0].Resource = "no resource"
	_, err = enhanced.NewDeadlockReport(enhanced.DeadlockFound, "", cycle, nil)
	require.Error(t, err)
}

func TestGraphResourceNamesAreReversed(t *testing.T) {
	t.Parallel()
	for _, r := range []enhanced.ResourceIdentifier{
		{Type: enhanced.ResourceTypeProject, Namespace: "org/app", Path: "a/b", Workspace: "w", Name: "n"},
		{Type: enhanced.ResourceTypeGlobal},
		{Type: enhanced.ResourceTypeCustom, Namespace: "", Path: "x/y//", Workspace: "ü", Name: " "},
	} {
		got, err := enhanced.ParseGraphResource(enhanced.FormatGraphResource(r))
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
}
