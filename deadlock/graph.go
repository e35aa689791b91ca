package deadlock

import "time"

// Waiter is one request in the queue of a resource. Owner, Resource and Request
// are compared byte by byte, and mean nothing here.
type Waiter struct {
	// Owner is who waits.
	Owner string
	// Resource is what it waits for.
	Resource string
	// Request identifies the waiter within its resource.
	Request string
	// Priority is the larger, the more important.
	Priority int
	// Since is when it began to wait.
	Since time.Time
}

// Graph is a wait-for graph: who holds what, and who waits for it in which
// order. Its nodes are owners; an [Edge] carries the resource and the request
// through which one owner waits for another. Make it with [NewGraph], fill it
// with [Graph.Hold] and [Graph.Wait], then ask it.
type Graph struct {
	owners    []string
	ownerOf   map[string]int
	lines     []line
	lineOf    map[string]int
	locks     []int    // by owner, how many resources it holds
	places    [][]spot // by owner, where it waits
	positions int      // how many waiters there are in all lines
}

// line is a resource with its holder and its queue.
type line struct {
	resource string
	holder   int // nobody for none
	waiters  []waiting
}

// waiting is a waiter in a line.
type waiting struct {
	Waiter
	owner int
}

// spot is a place in a line.
type spot struct{ line, at int }

const nobody = -1

// NewGraph returns a graph without locks and waiters.
func NewGraph() *Graph {
	return &Graph{ownerOf: make(map[string]int), lineOf: make(map[string]int)}
}

func (g *Graph) owner(name string) int {
	n, known := g.ownerOf[name]
	if !known {
		n = len(g.owners)
		g.ownerOf[name] = n
		g.owners = append(g.owners, name)
		g.locks = append(g.locks, 0)
		g.places = append(g.places, nil)
	}
	return n
}

func (g *Graph) line(resource string) int {
	n, known := g.lineOf[resource]
	if !known {
		n = len(g.lines)
		g.lineOf[resource] = n
		g.lines = append(g.lines, line{resource: resource, holder: nobody})
	}
	return n
}

// Hold says that an owner holds a resource. A later call for the same resource
// counts instead of an earlier one.
func (g *Graph) Hold(owner, resource string) {
	l := &g.lines[g.line(resource)]
	if l.holder != nobody {
		g.locks[l.holder]--
	}
	l.holder = g.owner(owner)
	g.locks[l.holder]++
}

// Wait puts a waiter at the end of its resource's queue.
func (g *Graph) Wait(w Waiter) {
	owner, at := g.owner(w.Owner), g.line(w.Resource)
	l := &g.lines[at]
	g.places[owner] = append(g.places[owner], spot{at, len(l.waiters)})
	l.waiters = append(l.waiters, waiting{w, owner})
	g.positions++
}

// Locks returns how many resources an owner holds.
func (g *Graph) Locks(owner string) int {
	if n, known := g.ownerOf[owner]; known {
		return g.locks[n]
	}
	return 0
}

// Queue returns the waiters of a resource, the first to be served first.
func (g *Graph) Queue(resource string) []Waiter {
	n, known := g.lineOf[resource]
	if !known {
		return nil
	}
	queue := make([]Waiter, len(g.lines[n].waiters))
	for i, w := range g.lines[n].waiters {
		queue[i] = w.Waiter
	}
	return queue
}

// Holder returns who holds a resource. See [Source].
func (g *Graph) Holder(resource string) (owner string, held bool) {
	n, known := g.lineOf[resource]
	if !known || g.lines[n].holder == nobody {
		return "", false
	}
	return g.owners[g.lines[n].holder], true
}

// Waits returns up to limit of what an owner waits for. See [Source].
func (g *Graph) Waits(owner string, limit int) []Waiter {
	n, known := g.ownerOf[owner]
	if !known {
		return nil
	}
	places := g.places[n][:min(limit, len(g.places[n]))]
	waits := make([]Waiter, len(places))
	for i, p := range places {
		waits[i] = g.lines[p.line].waiters[p.at].Waiter
	}
	return waits
}

// Ahead returns the waiter directly before another one, which need not be in the
// queue: then it is the last one's. See [Source].
func (g *Graph) Ahead(w Waiter) (ahead Waiter, found bool) {
	n, known := g.lineOf[w.Resource]
	if !known {
		return Waiter{}, false
	}
	waiters := g.lines[n].waiters
	at := len(waiters)
	for i := range waiters {
		if waiters[i].Request == w.Request {
			at = i
			break
		}
	}
	if at == 0 {
		return Waiter{}, false
	}
	return waiters[at-1].Waiter, true
}
