package deadlock_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/stretchr/testify/require"
)

// TestScripts runs testdata/scripts/*.txt. Each has commands, one a line, and what
// they print:
//
//	hold OWNER RESOURCE
//	wait OWNER RESOURCE [PRIORITY]    waiters come in this order, a second apart
//	check                             cycles, what ends them, each policy's victim
//	walk OWNER RESOURCE [LIMIT]       what a request would close that comes last
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/scripts/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			archive := txtar.Parse(data)
			require.Len(t, archive.Files, 2, "script and want")
			got := runScript(t, string(archive.Files[0].Data))
			require.Equal(t, string(archive.Files[1].Data), got)
		})
	}
}

func runScript(t *testing.T, script string) string {
	t.Helper()
	g := deadlock.NewGraph()
	var out strings.Builder
	waits := 0
	number := func(fields []string, at, missing int) int {
		if len(fields) <= at {
			return missing
		}
		n, err := strconv.Atoi(fields[at])
		require.NoError(t, err)
		return n
	}
	for line := range strings.Lines(script) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		switch fields[0] {
		case "hold":
			g.Hold(fields[1], fields[2])
		case "wait":
			waits++
			g.Wait(deadlock.Waiter{
				Owner: fields[1], Resource: fields[2], Request: fmt.Sprintf("%s@%d", fields[1], waits),
				Priority: number(fields, 3, 1), Since: time.Unix(int64(waits), 0),
			})
		case "check":
			printDeadlocks(t, &out, g)
		case "walk":
			walked := deadlock.Walk(g, deadlock.Waiter{Owner: fields[1], Resource: fields[2], Request: "new"}, number(fields, 3, 1000))
			fmt.Fprintf(&out, "%s after %d edges", walked.Outcome, walked.Edges)
			if walked.Cycle != nil {
				fmt.Fprintf(&out, ": %v", walked.Cycle)
			}
			out.WriteString("\n")
		default:
			t.Fatalf("unknown command %q", line)
		}
	}
	return out.String()
}

func printDeadlocks(t *testing.T, out *strings.Builder, g *deadlock.Graph) {
	t.Helper()
	check := func(policy deadlock.Policy) []deadlock.Deadlock {
		resolver, err := deadlock.NewResolver(policy, 1)
		require.NoError(t, err)
		detector, err := deadlock.NewDetector(deadlock.Options{
			Resolver: resolver,
			Snapshot: func(context.Context) (*deadlock.Graph, error) { return g, nil },
		})
		require.NoError(t, err)
		found, err := detector.Check(t.Context())
		require.NoError(t, err)
		return found
	}
	found := check("")
	if len(found) == 0 {
		out.WriteString("no deadlock\n")
	}
	for i, one := range found {
		fmt.Fprintf(out, "%v\n", one.Cycle)
		for _, w := range one.Moves {
			fmt.Fprintf(out, "  move %s in the queue of %s\n", w.Owner, w.Resource)
		}
		if len(one.Moves) > 0 {
			continue
		}
		for _, policy := range deadlock.Policies() {
			victim := "nobody"
			if v := check(policy)[i].Victim; v != nil {
				victim = v.Owner
			}
			if policy == deadlock.PolicyRandom {
				require.Contains(t, one.Cycle.Owners(), victim)
				continue
			}
			fmt.Fprintf(out, "  %s: %s\n", policy, victim)
		}
	}
}
