package deadlock_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is what a graph is compared with: plain queues, and every path tried. It
// shares no algorithm with the package.
type model struct {
	holders map[string]string
	queues  map[string][]deadlock.Waiter
}

func newModel() *model {
	return &model{make(map[string]string), make(map[string][]deadlock.Waiter)}
}

func (m *model) graph() *deadlock.Graph {
	g := deadlock.NewGraph()
	for _, resource := range resourceNames() {
		if holder, held := m.holders[resource]; held {
			g.Hold(holder, resource)
		}
		for _, w := range m.queues[resource] {
			g.Wait(w)
		}
	}
	return g
}

// edges has whom each owner waits for.
func (m *model) edges() map[string]map[string]bool {
	edges := make(map[string]map[string]bool)
	for resource, queue := range m.queues {
		for i, w := range queue {
			holder := m.holders[resource]
			isEarlier := func(x deadlock.Waiter) bool { return x.Owner == w.Owner }
			if holder == w.Owner || slices.ContainsFunc(queue[:i], isEarlier) {
				continue
			}
			if edges[w.Owner] == nil {
				edges[w.Owner] = make(map[string]bool)
			}
			if holder != "" {
				edges[w.Owner][holder] = true
			}
			for _, x := range queue[:i] {
				edges[w.Owner][x.Owner] = true
			}
		}
	}
	return edges
}

// shortestThrough is the length of the shortest cycle through an owner, 0 for
// none.
func shortestThrough(edges map[string]map[string]bool, start string) int {
	best := 0
	var visit func(owner string, path []string)
	visit = func(owner string, path []string) {
		for next := range edges[owner] {
			if next == start && (best == 0 || len(path) < best) {
				best = len(path)
			}
			if !slices.Contains(path, next) {
				visit(next, append(slices.Clone(path), next))
			}
		}
	}
	visit(start, []string{start})
	return best
}

func reaches(edges map[string]map[string]bool, from, to string) bool {
	seen, queue := map[string]bool{}, []string{from}
	for len(queue) > 0 {
		owner := queue[0]
		queue = queue[1:]
		for next := range edges[owner] {
			if next == to {
				return true
			}
			if !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	return false
}

// moved returns a copy with waiters moved to the front, one after the other.
func (m *model) moved(moves []deadlock.Waiter) *model {
	other := newModel()
	for resource, holder := range m.holders {
		other.holders[resource] = holder
	}
	for resource, queue := range m.queues {
		other.queues[resource] = slices.Clone(queue)
	}
	for _, w := range moves {
		queue := other.queues[w.Resource]
		at := slices.IndexFunc(queue, func(x deadlock.Waiter) bool { return x.Request == w.Request })
		other.queues[w.Resource] = slices.Insert(slices.Delete(queue, at, at+1), 0, w)
	}
	return other
}

// dissolves reports whether moves leave none of the owners and none who is moved
// in a cycle.
func (m *model) dissolves(owners []string, moves []deadlock.Waiter) bool {
	edges := m.moved(moves).edges()
	for _, w := range moves {
		owners = append(slices.Clone(owners), w.Owner)
	}
	return !slices.ContainsFunc(owners, func(owner string) bool { return reaches(edges, owner, owner) })
}

// fewestMoves tries all sequences of moves, the shorter first. It returns -1 when
// none dissolves the cycle.
func (m *model) fewestMoves(owners []string) int {
	var all []deadlock.Waiter
	for _, resource := range resourceNames() {
		all = append(all, m.queues[resource]...)
	}
	for size := 1; size <= len(all); size++ {
		if m.someMoves(owners, all, nil, size) {
			return size
		}
	}
	return -1
}

func (m *model) someMoves(owners []string, all, moves []deadlock.Waiter, size int) bool {
	if len(moves) == size {
		return m.dissolves(owners, moves)
	}
	for _, w := range all {
		// Queues are independent, so the order of moves counts within one only.
		if slices.Contains(moves, w) || len(moves) > 0 && w.Resource < moves[len(moves)-1].Resource {
			continue
		}
		if m.someMoves(owners, all, append(slices.Clone(moves), w), size) {
			return true
		}
	}
	return false
}

func ownerNames() []string { return []string{"a", "b", "c", "d", "e"} }

func resourceNames() []string { return []string{"w", "x", "y", "z"} }

// drawModel draws a model with up to limit waiters.
func drawModel(t *rapid.T, limit int) *model {
	m := newModel()
	for _, resource := range resourceNames() {
		if holder := rapid.SampledFrom(append([]string{""}, ownerNames()...)).Draw(t, "holder"); holder != "" {
			m.holders[resource] = holder
		}
	}
	for i := range rapid.IntRange(0, limit).Draw(t, "waiters") {
		w := deadlock.Waiter{
			Owner:    rapid.SampledFrom(ownerNames()).Draw(t, "owner"),
			Resource: rapid.SampledFrom(resourceNames()).Draw(t, "resource"),
			Request:  fmt.Sprint(i),
			Priority: rapid.IntRange(0, 3).Draw(t, "priority"),
			Since:    time.Unix(int64(i), 0),
		}
		m.queues[w.Resource] = append(m.queues[w.Resource], w)
	}
	return m
}

func TestCyclesAreShortest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t, 12)
		edges, g := m.edges(), m.graph()
		reported := make(map[string]int) // by owner, the length of its component's cycle
		for _, cycle := range g.Cycles() {
			requireCycle(t, edges, cycle)
			require.True(t, deadlock.Confirm(g, cycle), "%v", cycle)
			for _, owner := range ownerNames() {
				if reaches(edges, owner, cycle[0].Owner) && reaches(edges, cycle[0].Owner, owner) {
					require.Zero(t, reported[owner], "%s is in two components", owner)
					reported[owner] = len(cycle)
				}
			}
			shortest := len(cycle)
			for owner, length := range reported {
				if length == len(cycle) && reaches(edges, owner, cycle[0].Owner) && reaches(edges, cycle[0].Owner, owner) {
					shortest = min(shortest, shortestThrough(edges, owner))
				}
			}
			require.Equal(t, shortest, len(cycle), "%v", cycle)
		}
		for _, owner := range ownerNames() {
			require.Equal(t, reaches(edges, owner, owner), reported[owner] != 0, "%s", owner)
		}
	})
}

// requireCycle checks that each edge is one of the model, and that they close.
func requireCycle(t require.TestingT, edges map[string]map[string]bool, cycle deadlock.Cycle) {
	require.GreaterOrEqual(t, len(cycle), 2)
	owners := cycle.Owners()
	slices.Sort(owners)
	require.Len(t, slices.Compact(owners), len(cycle), "an owner occurs twice")
	for i, e := range cycle {
		require.Equal(t, cycle[(i+1)%len(cycle)].Owner, e.For)
		require.True(t, edges[e.Owner][e.For], "%v", e)
	}
}

func TestWalkFindsWhatTheRequestCloses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t, 12)
		request := deadlock.Waiter{
			Owner:    rapid.SampledFrom(ownerNames()).Draw(t, "who"),
			Resource: rapid.SampledFrom(resourceNames()).Draw(t, "what"),
			Request:  "new",
		}
		queue := m.queues[request.Resource]
		at := rapid.IntRange(0, len(queue)).Draw(t, "place")
		m.queues[request.Resource] = slices.Insert(queue, at, request)
		limit := rapid.SampledFrom([]int{1, 3, 10, 1000}).Draw(t, "limit")

		g, edges := m.graph(), m.edges()
		walked := deadlock.Walk(g, request, limit)
		require.LessOrEqual(t, walked.Edges, limit)
		shortest := shortestThrough(edges, request.Owner)
		switch walked.Outcome {
		case deadlock.OutcomeNone:
			require.Zero(t, shortest)
		case deadlock.OutcomeCycle:
			requireCycle(t, edges, walked.Cycle)
			require.Equal(t, request.Owner, walked.Cycle[0].Owner)
			require.Equal(t, shortest, len(walked.Cycle), "%v", walked.Cycle)
		case deadlock.OutcomeLimit:
			require.Less(t, limit, 1000)
			require.Nil(t, walked.Cycle)
		}
		if walked.Complete {
			for _, resource := range resourceNames() {
				seen := walked.Graph.Queue(resource)
				require.True(t, slices.Equal(m.queues[resource][:len(seen)], seen), "the first part of a queue")
			}
		}
		if walked.Complete && walked.Cycle != nil {
			// What was seen is enough to find the moves that the whole would.
			require.Equal(t, len(g.Reorder(walked.Cycle)), len(walked.Graph.Reorder(walked.Cycle)))
		}
	})
}

func TestReorderMovesTheFewest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t, 7)
		g := m.graph()
		for _, cycle := range g.Cycles() {
			moves, fewest := g.Reorder(cycle), m.fewestMoves(cycle.Owners())
			if fewest < 0 {
				require.Empty(t, moves, "%v", cycle)
				continue
			}
			require.Len(t, moves, fewest, "%v", cycle)
			require.True(t, m.dissolves(cycle.Owners(), moves), "%v: %v", cycle, moves)
		}
	})
}

// A cycle of the past is confirmed only while each of its waiters waits.
func TestConfirmSeesEachEdge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t, 12)
		for _, cycle := range m.graph().Cycles() {
			gone := rapid.SampledFrom(cycle).Draw(t, "gone")
			later := m.moved(nil)
			queue := later.queues[gone.Resource]
			later.queues[gone.Resource] = slices.DeleteFunc(queue, func(w deadlock.Waiter) bool { return w.Request == gone.Request })
			require.False(t, deadlock.Confirm(later.graph(), cycle), "%v without %v", cycle, gone)

			later = m.moved(nil)
			later.holders[gone.Resource] = gone.Owner
			require.False(t, deadlock.Confirm(later.graph(), cycle), "%v where %s holds what it waits for", cycle, gone.Owner)

			later = m.moved(nil)
			if !gone.Soft {
				later.holders[gone.Resource] = "somebody"
				later.queues[gone.Resource] = []deadlock.Waiter{gone.Waiter}
				require.False(t, deadlock.Confirm(later.graph(), cycle), "%v without the lock of %s", cycle, gone.For)
			}
		}
	})
}
