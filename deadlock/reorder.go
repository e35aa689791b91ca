package deadlock

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// reorderBudget bounds how many sets of waiters [Graph.Reorder] tries.
const reorderBudget = 256

// Reorder returns the fewest waiters that dissolve a cycle of the graph by going
// to the front of their queues, and close no other one by that. They are in the
// order in which each is to be put before all others of its queue, so of one
// queue the last one is the first to be served. It returns nil where no order of
// the queues helps: all edges of some cycle are hard. So it does where the cycle is
// not in the graph, and where no order was found within 256 tries.
//
// A cycle stays for as long as none of its soft edges is turned, and moving
// somebody to the front turns an edge only where that is its waiter. So each try
// takes one cycle that is left and branches over the waiters of its soft edges,
// the smaller sets first: a bounded search tree, as for hitting sets (Downey and
// Fellows, Parameterized Complexity, 1999). That all other owners may be in any
// order that their component numbers give is Tarjan's, see [Graph.Cycles].
func (g *Graph) Reorder(c Cycle) []Waiter {
	base := g.layout()
	owners := make([]int, 0, len(c))
	for _, e := range c {
		owner, known := g.ownerOf[e.Owner]
		if !known {
			return nil
		}
		owners = append(owners, owner)
	}
	tries := [][]spot{nil}
	tried := map[string]bool{"": true}
	for n := 0; n < len(tries) && n < reorderBudget; n++ {
		moves := tries[n]
		l := base.with(moves)
		parts := l.components()
		stuck := l.stuck(parts, owners, moves)
		if stuck == nobody {
			return l.inOrder(parts, moves)
		}
		s := l.search(parts.of)
		cycle := s.through(stuck, len(g.owners))
		for i, e := range cycle {
			if !e.Soft {
				continue
			}
			next := append(slices.Clone(moves), s.waiters[i])
			slices.SortFunc(next, compareSpots)
			if name := nameOf(next); !tried[name] {
				tried[name] = true
				tries = append(tries, next)
			}
		}
	}
	return nil
}

// stuck returns an owner of the cycle, or one that was moved, that is part of a
// cycle; nobody if there is none.
func (l *layout) stuck(parts components, owners []int, moves []spot) int {
	for _, owner := range owners {
		if len(parts.members[parts.of[owner]]) > 1 {
			return owner
		}
	}
	for _, m := range moves {
		if owner := l.ownerAt(m.line, m.at); len(parts.members[parts.of[owner]]) > 1 {
			return owner
		}
	}
	return nobody
}

// inOrder returns the moved waiters. Who is waited for has a lower component, and
// goes first.
func (l *layout) inOrder(parts components, moves []spot) []Waiter {
	component := func(m spot) int { return parts.of[l.ownerAt(m.line, m.at)] }
	slices.SortFunc(moves, func(x, y spot) int {
		return cmp.Or(cmp.Compare(x.line, y.line), cmp.Compare(component(y), component(x)))
	})
	var waiters []Waiter
	for _, m := range moves {
		waiters = append(waiters, l.graph.lines[m.line].waiters[m.at].Waiter)
	}
	return waiters
}

func compareSpots(x, y spot) int {
	return cmp.Or(cmp.Compare(x.line, y.line), cmp.Compare(x.at, y.at))
}

func nameOf(moves []spot) string {
	var name strings.Builder
	for _, m := range moves {
		fmt.Fprintf(&name, "%d/%d ", m.line, m.at)
	}
	return name.String()
}
