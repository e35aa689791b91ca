package queue

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Options are what a [PriorityQueue] is made with. The zero value is a strict
// order with the default limit.
type Options struct {
	// Order says who is served first. Its zero value is strict.
	Order Order
	// Limit is how many entries may wait for one resource. Zero means
	// DefaultLimit.
	Limit int
	// Now is the clock, nil means time.Now. It may be called by several
	// goroutines at once.
	Now func() time.Time
}

// Item is an entry of a [PriorityQueue], as it was when it was read.
type Item[T any] struct {
	// ID identifies the entry in the whole queue.
	ID string
	// Resource is what it waits for.
	Resource string
	// Priority is the one that it came with.
	Priority int
	// Enqueued is when it came, by the queue's clock.
	Enqueued time.Time
	// Rank is its place in the order.
	Rank Rank
	// Value is what was pushed.
	Value T
}

// PriorityQueue is a set of lines, one for each resource, in the order of
// [Options].Order. Resources don't know of each other: a line that is full or
// does not move holds up no other. Make one with [NewPriorityQueue]. All methods
// may be called concurrently.
//
// In the costs that the methods name, n is the length of the one line that is
// concerned. The number of lines costs nothing.
//
// Within one priority of a line entries are served in the order in which they
// came, also when the clock is set back: the queue's time then stands still
// until the clock has caught up.
type PriorityQueue[T any] struct {
	order Order
	limit int
	now   func() time.Time

	mu       sync.Mutex // protects all below
	lines    map[string]*line[T]
	entries  map[string]*entry[T] // by ID
	latest   time.Time            // of all times that the clock has given
	sequence uint64               // entries that ever came
	moves    uint64               // calls of MoveToFront that moved
}

// NewPriorityQueue returns an empty queue. Its error matches [ErrInvalid] and
// names the option that is out of bounds.
func NewPriorityQueue[T any](options Options) (*PriorityQueue[T], error) {
	if err := options.Order.Validate(); err != nil {
		return nil, err
	}
	limit, err := limitOf(options.Limit)
	if err != nil {
		return nil, err
	}
	now := options.Now
	if now == nil {
		now = time.Now
	}
	return &PriorityQueue[T]{
		order: options.Order, limit: limit, now: now,
		lines: make(map[string]*line[T]), entries: make(map[string]*entry[T]),
	}, nil
}

// Push lets an entry wait for a resource and returns its position in that
// line, where 1 is served next. The ID is unique among all that wait in the
// queue, whatever they wait for; once the entry has left it may be used again.
//
// A [DuplicateError] says that the ID waits already, a [FullError] that the
// line is at its limit, and an error that matches [ErrInvalid] that the
// priority is not from [MinPriority] to [MaxPriority]. None of them changes
// anything.
//
// It costs O(log n), plus O(position) to find the position of an entry that
// does not go to the end of its line.
func (q *PriorityQueue[T]) Push(id, resource string, priority int, value T) (int, error) {
	if priority < MinPriority || priority > MaxPriority {
		return 0, fmt.Errorf("%w: priority %d is not from %d to %d", ErrInvalid, priority, MinPriority, MaxPriority)
	}
	// Here, since it is not the queue's code. Without its monotonic part a time
	// is compared by what its rank is made of.
	enqueued := q.now().Round(0)

	q.mu.Lock()
	defer q.mu.Unlock()
	if waiting, found := q.entries[id]; found {
		return 0, &DuplicateError{ID: id, Resource: waiting.Resource}
	}
	l := q.lines[resource]
	if l == nil {
		l = &line[T]{}
	}
	if l.Len() >= q.limit {
		return 0, &FullError{Resource: resource, Size: l.Len(), Limit: q.limit}
	}
	if enqueued.Before(q.latest) {
		enqueued = q.latest
	}
	q.latest = enqueued
	q.sequence++
	e := &entry[T]{Item: Item[T]{
		ID: id, Resource: resource, Priority: priority, Enqueued: enqueued,
		Rank: q.order.Rank(priority, enqueued, q.sequence), Value: value,
	}}
	l.insert(e)
	q.lines[resource] = l
	q.entries[id] = e
	return l.position(e), nil
}

// Pop takes the entry that is served next out of a line. It reports false when
// none waits there. It costs O(log n).
func (q *PriorityQueue[T]) Pop(resource string) (Item[T], bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[resource]
	if l == nil {
		return Item[T]{}, false
	}
	return q.take(l, 0), true
}

// Peek returns the entry that Pop would take. It reports false when none waits
// there. It costs O(1).
func (q *PriorityQueue[T]) Peek(resource string) (Item[T], bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[resource]
	if l == nil {
		return Item[T]{}, false
	}
	return l.entries[0].Item, true
}

// Remove takes an entry out of its line, wherever it stands. It reports false
// when no entry with the ID waits, also because it has been taken out before:
// of several callers one gets it. It costs O(log n).
func (q *PriorityQueue[T]) Remove(id string) (Item[T], bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, found := q.entries[id]
	if !found {
		return Item[T]{}, false
	}
	return q.take(q.lines[e.Resource], e.index), true
}

// take takes the entry at an index of a line out. The caller holds q.mu.
func (q *PriorityQueue[T]) take(l *line[T], index int) Item[T] {
	e := heap.Remove(l, index).(*entry[T]) //nolint:errcheck // a line has nothing else
	delete(q.entries, e.ID)
	if l.Len() == 0 {
		delete(q.lines, e.Resource)
	}
	return e.Item
}

// Position returns the place of an entry in its line, where 1 is served next.
// It reports false when no entry with the ID waits. It costs O(position),
// which is O(n) for the back of a line, since a heap is only partly sorted.
func (q *PriorityQueue[T]) Position(id string) (int, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, found := q.entries[id]
	if !found {
		return 0, false
	}
	return q.lines[e.Resource].position(e), true
}

// MoveToFront moves an entry before all others of its line, those that were
// moved earlier included; its priority stays what it was. It reports false when
// no entry with the ID waits. Whoever calls it breaks the promise that the
// order gives to the others, so it is for people who answer for it. It costs
// O(log n).
func (q *PriorityQueue[T]) MoveToFront(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, found := q.entries[id]
	if !found {
		return false
	}
	q.moves++
	e.Rank = q.order.Moved(q.moves)
	heap.Fix(q.lines[e.Resource], e.index)
	return true
}

// Len returns how many entries wait for a resource. It costs O(1).
func (q *PriorityQueue[T]) Len(resource string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.lines[resource]; l != nil {
		return l.Len()
	}
	return 0
}

// Size returns how many entries wait in all lines together. It costs O(1).
func (q *PriorityQueue[T]) Size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries)
}

// Resources returns the resources that entries wait for, sorted. With r of them
// it costs O(r log r), of which O(r) hold up other callers.
func (q *PriorityQueue[T]) Resources() []string {
	q.mu.Lock()
	resources := slices.AppendSeq(make([]string, 0, len(q.lines)), maps.Keys(q.lines))
	q.mu.Unlock()
	slices.Sort(resources)
	return resources
}

// Items returns the entries that wait for a resource in the order in which they
// are served, as they were at one moment. It costs O(n log n), of which O(n)
// hold up other callers.
func (q *PriorityQueue[T]) Items(resource string) []Item[T] {
	items := q.unsorted(resource)
	slices.SortFunc(items, func(a, b Item[T]) int { return a.Rank.Compare(b.Rank) })
	return items
}

func (q *PriorityQueue[T]) unsorted(resource string) []Item[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[resource]
	if l == nil {
		return nil
	}
	items := make([]Item[T], len(l.entries))
	for i, e := range l.entries {
		items[i] = e.Item
	}
	return items
}
