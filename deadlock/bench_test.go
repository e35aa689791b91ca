package deadlock_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
)

// plantedGraph has waiters in queues of 20, behind holders that wait for nobody,
// and cycles of 2 to 50 owners, each of which waits behind some of them.
func plantedGraph(waiters, cycles int) *deadlock.Graph {
	g := deadlock.NewGraph()
	put := 0
	wait := func(owner, resource string) {
		put++
		g.Wait(deadlock.Waiter{Owner: owner, Resource: resource, Request: fmt.Sprint(put), Priority: put % 4, Since: time.Unix(int64(put), 0)})
	}
	for c := range cycles {
		length := 2 + c%49
		for i := range length {
			owner, next := fmt.Sprintf("c%d-%d", c, i), fmt.Sprintf("r%d-%d", c, (i+1)%length)
			g.Hold(owner, fmt.Sprintf("r%d-%d", c, i))
			wait(fmt.Sprintf("bystander%d-%d", c, i), next)
			wait(owner, next)
		}
	}
	for q := 0; put < waiters; q++ {
		resource := fmt.Sprintf("q%d", q)
		g.Hold(fmt.Sprintf("h%d", q), resource)
		for i := 0; i < 20 && put < waiters; i++ {
			wait(fmt.Sprintf("w%d", put), resource)
		}
	}
	return g
}

// What a detector does with one picture: find all cycles, and who ends each.
func BenchmarkDetector(b *testing.B) {
	for _, size := range []struct{ waiters, cycles int }{{1_000, 10}, {100_000, 1_000}} {
		b.Run(fmt.Sprintf("waiters=%d/cycles=%d", size.waiters, size.cycles), func(b *testing.B) {
			g := plantedGraph(size.waiters, size.cycles)
			for b.Loop() {
				if found := len(g.Cycles()); found != size.cycles {
					b.Fatalf("%d cycles, want %d", found, size.cycles)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/check")
		})
	}
}

// What prevention does for a request that closes no cycle, at the end of a chain
// of owners each of which waits for the next one.
func BenchmarkWalk(b *testing.B) {
	for _, edges := range []int{10, 1000} {
		b.Run(fmt.Sprintf("edges=%d", edges), func(b *testing.B) {
			g := deadlock.NewGraph()
			for i := range edges {
				g.Hold(fmt.Sprintf("o%d", i), fmt.Sprintf("r%d", i))
				if i > 0 {
					g.Wait(deadlock.Waiter{Owner: fmt.Sprintf("o%d", i-1), Resource: fmt.Sprintf("r%d", i), Request: fmt.Sprint(i)})
				}
			}
			for b.Loop() {
				walked := deadlock.Walk(g, deadlock.Waiter{Owner: "new", Resource: "r0", Request: "new"}, edges)
				if walked.Outcome != deadlock.OutcomeNone || walked.Edges != edges {
					b.Fatalf("%s after %d edges", walked.Outcome, walked.Edges)
				}
			}
		})
	}
}
