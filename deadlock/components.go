package deadlock

// layout is a graph as the algorithms read it. Each waiter has a number; those
// that wait for nobody are left out of lines.
type layout struct {
	graph *Graph
	// queues has the waiters of each line that count, by their place in the
	// graph's line.
	queues [][]int
	// rank is where a waiter of the graph stands in queues, -1 when left out.
	rank [][]int
	// moved says which waiters go before all others of their line, in an order
	// that is still open.
	moved map[spot]bool
	// front has the moved waiters of a line.
	front map[int][]int
}

func (g *Graph) layout() *layout {
	l := &layout{graph: g, queues: make([][]int, len(g.lines)), rank: make([][]int, len(g.lines))}
	// Whether an owner was seen in a line: the line's number and one.
	seen := make([]int, len(g.owners))
	queued, ranks := make([]int, 0, g.positions), make([]int, g.positions)
	for n := range g.lines {
		line := &g.lines[n]
		start := len(queued)
		rank := ranks[:len(line.waiters):len(line.waiters)]
		ranks = ranks[len(line.waiters):]
		for at, w := range line.waiters {
			if w.owner == line.holder || seen[w.owner] == n+1 {
				rank[at] = -1
				continue
			}
			seen[w.owner] = n + 1
			rank[at] = len(queued) - start
			queued = append(queued, at)
		}
		l.queues[n], l.rank[n] = queued[start:len(queued):len(queued)], rank
	}
	return l
}

// with returns a layout in which some waiters are moved to the front.
func (l *layout) with(moves []spot) *layout {
	other := *l
	other.moved, other.front = make(map[spot]bool), make(map[int][]int)
	for _, m := range moves {
		other.moved[m] = true
		other.front[m.line] = append(other.front[m.line], l.ownerAt(m.line, m.at))
	}
	return &other
}

func (l *layout) isMoved(p spot) bool { return len(l.moved) > 0 && l.moved[p] }

func (l *layout) ownerAt(line, at int) int { return l.graph.lines[line].waiters[at].owner }

// reach appends some owners that an owner waits for: from them all the others
// can be reached. It is one for each place, the next one in the chain, and not
// one for each that is before it.
func (l *layout) reach(owner int, out []int) []int {
	for _, p := range l.graph.places[owner] {
		rank := l.rank[p.line][p.at]
		if rank < 0 {
			continue
		}
		if holder := l.graph.lines[p.line].holder; holder != nobody {
			out = append(out, holder)
		}
		if l.isMoved(p) {
			continue
		}
		queue := l.queues[p.line]
		rank--
		for rank >= 0 && l.isMoved(spot{p.line, queue[rank]}) {
			rank--
		}
		if rank >= 0 {
			out = append(out, l.ownerAt(p.line, queue[rank]))
		} else {
			out = append(out, l.front[p.line]...)
		}
	}
	return out
}

// components has the strongly connected components of a layout.
type components struct {
	// of is the component of each owner. What a component waits for has a lower
	// number.
	of []int
	// members are the owners of each component.
	members [][]int
}

// components finds them by the algorithm of Tarjan, "Depth-first search and
// linear graph algorithms", SIAM Journal on Computing 1(2), 1972. It keeps a
// stack of its own, since chains can be as long as there are waiters.
func (l *layout) components() components {
	count := len(l.graph.owners)
	c := components{of: make([]int, count), members: make([][]int, 0, count)}
	index, low := make([]int, count), make([]int, count) // index 0 is: not seen
	open := make([]int, 0, count)                        // seen, and in no component yet
	type frame struct{ owner, begin, next int }
	var calls []frame
	var reached []int // what the owners of calls reach, one after the other
	members := make([]int, 0, count)
	seen := 0
	enter := func(owner int) {
		seen++
		index[owner], low[owner], c.of[owner] = seen, seen, nobody
		open = append(open, owner)
		begin := len(reached)
		reached = l.reach(owner, reached)
		calls = append(calls, frame{owner, begin, begin})
	}
	for root := range count {
		if index[root] != 0 {
			continue
		}
		enter(root)
		for len(calls) > 0 {
			top := &calls[len(calls)-1]
			if top.next < len(reached) {
				next := reached[top.next]
				top.next++
				if index[next] == 0 {
					enter(next)
				} else if c.of[next] == nobody {
					low[top.owner] = min(low[top.owner], index[next])
				}
				continue
			}
			owner := top.owner
			reached, calls = reached[:top.begin], calls[:len(calls)-1]
			if len(calls) > 0 {
				caller := calls[len(calls)-1].owner
				low[caller] = min(low[caller], low[owner])
			}
			if low[owner] != index[owner] {
				continue
			}
			start := len(members)
			for {
				last := open[len(open)-1]
				open = open[:len(open)-1]
				c.of[last] = len(c.members)
				members = append(members, last)
				if last == owner {
					break
				}
			}
			c.members = append(c.members, members[start:len(members):len(members)])
		}
	}
	return c
}
