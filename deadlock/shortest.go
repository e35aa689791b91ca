package deadlock

import (
	"cmp"
	"slices"
	"strings"
)

// searchBudget bounds the steps that are spent on one component: below it the
// shortest cycle is found for sure. It is not reached by a component of 1,000
// owners, each of which waits once.
const searchBudget = 4_000_000

// Cycles returns a shortest cycle of each strongly connected component that has
// one, in a stable order. What is left of a component when that is broken is
// found by the next call. The time is linear in the number of waiters, but
// within a component, where each owner is tried as the start; a component of
// several thousand owners gives a short cycle, not surely the shortest.
func (g *Graph) Cycles() []Cycle {
	l := g.layout()
	c := l.components()
	search := l.search(c.of)
	var found []Cycle
	for _, members := range c.members {
		if len(members) > 1 {
			found = append(found, search.shortest(members).rotated())
		}
	}
	slices.SortFunc(found, func(x, y Cycle) int {
		return slices.CompareFunc(x, y, compareEdges)
	})
	return found
}

// search looks for cycles by breadth-first searches.
type search struct {
	*layout
	component []int
	// run is the number of the search, by which what is left of earlier ones is
	// told apart.
	run    int
	seen   []int // by owner, the run that has seen it
	depth  []int
	parent []int
	by     []step // how an owner was reached from its parent
	walked []extent
	steps  int
	// waiters are those of the last cycle that was found, edge by edge.
	waiters []spot
}

// step is an edge by numbers.
type step struct {
	spot
	soft bool
}

// extent is how far a line was walked: all before rank at were reached.
type extent struct{ run, at int }

func (l *layout) search(component []int) *search {
	count := len(l.graph.owners)
	return &search{
		layout: l, component: component,
		seen: make([]int, count), depth: make([]int, count), parent: make([]int, count), by: make([]step, count),
		walked: make([]extent, len(l.graph.lines)),
	}
}

// shortest returns a shortest cycle of a component's members.
func (s *search) shortest(members []int) Cycle {
	s.steps = 0
	var best Cycle
	for _, start := range members {
		if s.steps > searchBudget && best != nil {
			break
		}
		limit := len(s.graph.owners)
		if best != nil {
			limit = len(best) - 1
		}
		if cycle := s.through(start, limit); cycle != nil {
			best = cycle
		}
		if len(best) == 2 {
			break
		}
	}
	return best
}

// through returns a shortest cycle through an owner within its component, nil if
// there is none of at most limit edges.
func (s *search) through(start, limit int) Cycle {
	s.run++
	s.seen[start], s.depth[start] = s.run, 0
	queue := []int{start}
	for len(queue) > 0 {
		owner := queue[0]
		queue = queue[1:]
		if s.depth[owner] >= limit {
			return nil
		}
		var closing *step
		s.eachSuccessor(owner, func(next int, by step) bool {
			s.steps++
			if next == start {
				closing = &by
				return false
			}
			if s.component[next] == s.component[start] && s.seen[next] != s.run {
				s.seen[next], s.depth[next], s.parent[next], s.by[next] = s.run, s.depth[owner]+1, owner, by
				queue = append(queue, next)
			}
			return true
		})
		if closing != nil {
			return s.cycle(start, owner, *closing)
		}
	}
	return nil
}

// eachSuccessor calls visit for the owners that an owner waits for and that this
// run has not met in the same line, until it answers false. Holders come first:
// where an owner waits for another one in both ways, a move is no help.
func (s *search) eachSuccessor(owner int, visit func(next int, by step) bool) {
	places := s.graph.places[owner]
	for _, p := range places {
		holder := s.graph.lines[p.line].holder
		if s.rank[p.line][p.at] >= 0 && holder != nobody && !visit(holder, step{p, false}) {
			return
		}
	}
	for _, p := range places {
		if s.rank[p.line][p.at] >= 0 && !s.moved[p] && !s.eachBefore(p, visit) {
			return
		}
	}
}

// eachBefore is eachSuccessor for those before a waiter in its line. It reports
// whether visit has never answered false.
func (s *search) eachBefore(p spot, visit func(next int, by step) bool) bool {
	for _, front := range s.front[p.line] {
		if !visit(front, step{p, true}) {
			return false
		}
	}
	// Who is before an owner that came earlier in this search was reached from
	// that one, by as few edges.
	rank, from := s.rank[p.line][p.at], 0
	if w := s.walked[p.line]; w.run == s.run {
		from = w.at
	}
	s.walked[p.line] = extent{s.run, max(from, rank)}
	for before := rank - 1; before >= from; before-- {
		at := s.queues[p.line][before]
		if len(s.moved) > 0 && s.moved[spot{p.line, at}] {
			continue
		}
		if !visit(s.ownerAt(p.line, at), step{p, true}) {
			return false
		}
	}
	return true
}

// cycle goes back from the last owner to the start.
func (s *search) cycle(start, last int, closing step) Cycle {
	cycle := Cycle{s.edge(closing, start)}
	s.waiters = append(s.waiters[:0], closing.spot)
	for owner := last; owner != start; owner = s.parent[owner] {
		cycle = append(cycle, s.edge(s.by[owner], owner))
		s.waiters = append(s.waiters, s.by[owner].spot)
	}
	slices.Reverse(cycle)
	slices.Reverse(s.waiters)
	return cycle
}

func (s *search) edge(by step, next int) Edge {
	return Edge{Waiter: s.graph.lines[by.line].waiters[by.at].Waiter, For: s.graph.owners[next], Soft: by.soft}
}

func compareEdges(x, y Edge) int {
	return cmp.Or(strings.Compare(x.Owner, y.Owner), strings.Compare(x.Resource, y.Resource), strings.Compare(x.Request, y.Request))
}
