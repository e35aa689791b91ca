package deadlock

import "slices"

// Source is a store's state as [Walk] and [Confirm] read it. A [Graph] is one.
type Source interface {
	// Holder returns who holds a resource.
	Holder(resource string) (owner string, held bool)
	// Waits returns up to limit of an owner's waiters, those for one resource in
	// the order of its queue.
	Waits(owner string, limit int) []Waiter
	// Ahead returns the waiter directly before another one in its queue.
	Ahead(w Waiter) (ahead Waiter, found bool)
}

// Outcome is what a walk has found.
type Outcome string

// The outcomes of a walk.
const (
	// OutcomeNone: the request closes no cycle.
	OutcomeNone Outcome = "none"
	// OutcomeCycle: it closes one.
	OutcomeCycle Outcome = "cycle"
	// OutcomeLimit: none was found within the limit, and there is more to follow.
	OutcomeLimit Outcome = "limit"
)

// Walked is the result of [Walk].
type Walked struct {
	Outcome Outcome
	// Cycle is the shortest one that the request closes, starting with it or with
	// another waiter of its owner. Nil unless Outcome is OutcomeCycle.
	Cycle Cycle
	// Edges is how many edges were followed.
	Edges int
	// Graph is what was seen. It has every cycle that the request is part of, and
	// every one that moving a waiter of it can close, if Complete is set.
	Graph *Graph
	// Complete says that all was followed within the limit.
	Complete bool
}

// Walk follows what a request waits for, and what those wait for who stand in its
// way, over at most limit edges: from a resource to its holder, and along its
// queue from a waiter to the one directly before it. It is a breadth-first
// search, so the cycle that it finds is a shortest one. The source answers as if
// the request were in its queue already.
//
// Each cycle that a request closes goes through its owner, so a source that had
// none before has none afterwards if the outcome is OutcomeNone.
func Walk(source Source, request Waiter, limit int) *Walked {
	w := &walk{
		source: source, request: request, limit: limit,
		lines: make(map[string]*walkedLine), reached: map[string]reachedBy{request.Owner: {}},
		queue: []string{request.Owner},
	}
	w.run()
	result := &Walked{Outcome: OutcomeNone, Cycle: w.cycle, Edges: w.edges, Graph: w.graph(), Complete: !w.full}
	switch {
	case w.cycle != nil:
		result.Outcome = OutcomeCycle
	case w.full:
		result.Outcome = OutcomeLimit
	}
	return result
}

type walk struct {
	source  Source
	request Waiter
	limit   int
	edges   int
	// full says that the limit was reached.
	full  bool
	lines map[string]*walkedLine
	order []string // the lines as they were met
	// reached says by which edge each owner was reached first.
	reached map[string]reachedBy
	queue   []string
	cycle   Cycle
}

type reachedBy struct{ edge Edge }

// walkedLine is the first part of a queue.
type walkedLine struct {
	holder  string
	held    bool
	waiters []Waiter
	known   map[string]bool // by request
}

// run takes holders first: where an owner waits for another one in both ways, a
// move is no help.
func (w *walk) run() {
	for len(w.queue) > 0 {
		owner := w.queue[0]
		w.queue = w.queue[1:]
		places := w.placesOf(owner)
		for _, place := range places {
			line := w.line(place.Resource)
			if line.held && line.holder != owner && !w.reach(Edge{Waiter: place, For: line.holder}) {
				w.full = true
				return
			}
		}
		for _, place := range places {
			if !w.follow(place) {
				w.full = true
				return
			}
		}
	}
}

func (w *walk) line(resource string) *walkedLine {
	line := w.lines[resource]
	if line == nil {
		line = &walkedLine{known: make(map[string]bool)}
		line.holder, line.held = w.source.Holder(resource)
		w.lines[resource] = line
		w.order = append(w.order, resource)
	}
	return line
}

// placesOf returns where an owner waits, once for each resource.
func (w *walk) placesOf(owner string) (places []Waiter) {
	limit := w.limit - w.edges + 1
	waits := w.source.Waits(owner, limit)
	w.full = w.full || len(waits) >= limit
	if owner == w.request.Owner && !slices.ContainsFunc(waits, func(x Waiter) bool {
		return x.Resource == w.request.Resource
	}) {
		waits = append([]Waiter{w.request}, waits...)
	}
	seen := make(map[string]bool, len(waits))
	for _, place := range waits {
		if !seen[place.Resource] {
			seen[place.Resource] = true
			places = append(places, place)
		}
	}
	return places
}

// follow goes along a queue, and reports whether the limit allowed it.
func (w *walk) follow(from Waiter) bool {
	line := w.line(from.Resource)
	if line.held && line.holder == from.Owner || line.known[from.Request] {
		return true // it waits for nobody, or all before it is known
	}
	chain := []Waiter{from}
	for at, found := w.source.Ahead(from); found; at, found = w.source.Ahead(at) {
		if !w.reach(Edge{Waiter: from, For: at.Owner, Soft: true}) {
			return false
		}
		if line.known[at.Request] {
			break
		}
		chain = append(chain, at)
	}
	slices.Reverse(chain)
	for _, x := range chain {
		line.known[x.Request] = true
	}
	line.waiters = append(line.waiters, chain...)
	return true
}

// reach follows an edge, and reports whether the limit allowed it.
func (w *walk) reach(e Edge) bool {
	if w.edges >= w.limit {
		return false
	}
	w.edges++
	switch _, known := w.reached[e.For]; {
	case e.For == w.request.Owner && w.cycle == nil && e.Owner != e.For:
		w.close(e)
	case !known:
		w.reached[e.For] = reachedBy{e}
		w.queue = append(w.queue, e.For)
	}
	return true
}

// close goes back from the edge that has come to the start.
func (w *walk) close(last Edge) {
	w.cycle = Cycle{last}
	for owner := last.Owner; owner != w.request.Owner; owner = w.cycle[len(w.cycle)-1].Owner {
		w.cycle = append(w.cycle, w.reached[owner].edge)
	}
	slices.Reverse(w.cycle)
}

func (w *walk) graph() *Graph {
	g := NewGraph()
	for _, resource := range w.order {
		line := w.lines[resource]
		if line.held {
			g.Hold(line.holder, resource)
		}
		for _, x := range line.waiters {
			g.Wait(x)
		}
	}
	return g
}

// Confirm reports whether every edge of a cycle is still there: its waiter waits,
// and who it waits for holds the resource or is before it in the queue.
func Confirm(source Source, c Cycle) bool {
	return !slices.ContainsFunc(c, func(e Edge) bool { return !confirm(source, e) })
}

func confirm(source Source, e Edge) bool {
	waits := source.Waits(e.Owner, 1<<30)
	at := slices.IndexFunc(waits, func(w Waiter) bool { return w.Resource == e.Resource })
	if at < 0 || waits[at].Request != e.Request {
		return false // it has left, or its owner is served by an earlier one
	}
	holder, held := source.Holder(e.Resource)
	if held && holder == e.Owner {
		return false
	}
	if held && holder == e.For {
		return true
	}
	for ahead, found := source.Ahead(waits[at]); found; ahead, found = source.Ahead(ahead) {
		if ahead.Owner == e.For {
			return true
		}
	}
	return false
}
