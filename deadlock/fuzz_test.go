package deadlock_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/stretchr/testify/require"
)

// FuzzGraph builds a graph of any bytes, three for each lock or waiter, and checks
// what must hold for all.
func FuzzGraph(f *testing.F) {
	f.Add([]byte("\x01\x01\x01\x01\x02\x02\x00\x01\x02\x00\x02\x01"))
	f.Add([]byte("\x01\x09\x01\x01\x09\x02\x00\x01\x01\x00\x02\x02\x00\x02\x01\x00\x01\x02"))
	f.Add([]byte("\x00\x01\x01\x00\x02\x01\x00\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newModel()
		names := make(map[string]bool)
		g := deadlock.NewGraph()
		for i := 0; i+2 < min(len(data), 3*200); i += 3 {
			owner, resource := fmt.Sprint("o", data[i+1]%16), fmt.Sprint("r", data[i+2]%16)
			names[resource] = true
			if data[i]%4 == 1 {
				m.holders[resource] = owner
				g.Hold(owner, resource)
				continue
			}
			w := deadlock.Waiter{Owner: owner, Resource: resource, Request: fmt.Sprint(i), Priority: int(data[i] % 4)}
			m.queues[resource] = append(m.queues[resource], w)
			g.Wait(w)
		}
		edges := m.edges()
		for _, cycle := range g.Cycles() {
			requireCycle(t, edges, cycle)
			require.True(t, deadlock.Confirm(g, cycle))
			if moves := g.Reorder(cycle); moves != nil {
				require.True(t, m.dissolves(cycle.Owners(), moves), "%v: %v", cycle, moves)
			}
			for _, policy := range deadlock.Policies() {
				resolver, err := deadlock.NewResolver(policy, 7)
				require.NoError(t, err)
				victim, found := resolver.Choose(g, cycle)
				require.Equal(t, policy != deadlock.PolicyNone, found)
				isVictim := func(e deadlock.Edge) bool { return e.Waiter == victim }
				require.Equal(t, found, slices.ContainsFunc(cycle, isVictim))
			}
		}
		for resource := range names {
			request := deadlock.Waiter{Owner: "o1", Resource: resource, Request: "new"}
			walked := deadlock.Walk(g, request, 50)
			require.LessOrEqual(t, walked.Edges, 50)
			m.queues[resource] = append(m.queues[resource], request)
			isClosed := reaches(m.edges(), "o1", "o1")
			m.queues[resource] = m.queues[resource][:len(m.queues[resource])-1]
			if walked.Outcome != deadlock.OutcomeLimit {
				require.Equal(t, isClosed, walked.Outcome == deadlock.OutcomeCycle)
			}
		}
	})
}
