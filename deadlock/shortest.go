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

	start, at int   // where the search began, and whose edges it follows
	queue     []int // the owners that were reached, in their order
	closing   step  // what has led from at to start
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
		if len(best) == 2 || s.steps > searchBudget && best != nil {
			break
		}
		limit := len(s.graph.owners)
		if best != nil {
			limit = len(best) - 1
		}
		if cycle := s.through(start, limit); cycle != nil {
			best = cycle
		}
		s.component[start] = nobody // no better one goes through it
	}
	return best
}

// through returns a shortest cycle through an owner within its component, nil if
// there is none of at most limit edges.
func (s *search) through(start, limit int) Cycle {
	s.run++
	s.start = start
	s.seen[start], s.depth[start] = s.run, 0
	s.queue = append(s.queue[:0], start)
	for next := 0; next < len(s.queue); next++ {
		s.at = s.queue[next]
		if s.depth[s.at] >= limit {
			return nil
		}
		if !s.follow() {
			return s.cycle()
		}
	}
	return nil
}

// reach goes over an edge, and reports whether the search has to go on.
func (s *search) reach(next int, by step) bool {
	s.steps++
	if next == s.start {
		s.closing = by
		return false
	}
	if s.component[next] == s.component[s.start] && s.seen[next] != s.run {
		s.seen[next], s.depth[next], s.parent[next], s.by[next] = s.run, s.depth[s.at]+1, s.at, by
		s.queue = append(s.queue, next)
	}
	return true
}

// follow reaches those whom an owner waits for, but for those that this search
// has met before in the same line. Holders come first: where an owner waits for
// another one in both ways, a move is no help.
func (s *search) follow() bool {
	places := s.graph.places[s.at]
	for _, p := range places {
		holder := s.graph.lines[p.line].holder
		if s.rank[p.line][p.at] >= 0 && holder != nobody && !s.reach(holder, step{p, false}) {
			return false
		}
	}
	for _, p := range places {
		if s.rank[p.line][p.at] >= 0 && !s.isMoved(p) && !s.followLine(p) {
			return false
		}
	}
	return true
}

// followLine reaches those before a waiter in its line.
func (s *search) followLine(p spot) bool {
	for _, front := range s.front[p.line] {
		if !s.reach(front, step{p, true}) {
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
		if !s.isMoved(spot{p.line, at}) && !s.reach(s.ownerAt(p.line, at), step{p, true}) {
			return false
		}
	}
	return true
}

// cycle goes back from the last owner to the start.
func (s *search) cycle() Cycle {
	cycle := append(make(Cycle, 0, s.depth[s.at]+1), s.edge(s.closing, s.start))
	s.waiters = append(s.waiters[:0], s.closing.spot)
	for owner := s.at; owner != s.start; owner = s.parent[owner] {
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
