package queue

import "container/heap"

// entry is what waits in a line.
type entry[T any] struct {
	Item[T]
	// index is where the line has the entry, kept up to date by Swap.
	index int
}

// line is the heap of the entries that wait for one resource, the first to be
// served on top. It is driven by container/heap, which calls the exported
// methods.
type line[T any] struct {
	entries []*entry[T]
	// last is at least the rank of every entry. It only grows: an entry that is
	// at the end again is found so by the longer way.
	last Rank
}

// Len returns how many entries wait.
func (l *line[T]) Len() int { return len(l.entries) }

// Less reports whether the entry at i is served before the one at j.
func (l *line[T]) Less(i, j int) bool {
	return l.entries[i].Rank.Compare(l.entries[j].Rank) < 0
}

// Swap swaps two entries.
func (l *line[T]) Swap(i, j int) {
	l.entries[i], l.entries[j] = l.entries[j], l.entries[i]
	l.entries[i].index, l.entries[j].index = i, j
}

// Push appends an *entry[T].
func (l *line[T]) Push(x any) {
	e := x.(*entry[T]) //nolint:errcheck // only insert calls it
	e.index = len(l.entries)
	l.entries = append(l.entries, e)
}

// Pop takes the last entry off. Its slot is cleared: the slice keeps it, and
// would keep the value alive.
func (l *line[T]) Pop() any {
	end := len(l.entries) - 1
	e := l.entries[end]
	l.entries[end] = nil
	l.entries = l.entries[:end]
	return e
}

func (l *line[T]) insert(e *entry[T]) {
	if e.Rank.Compare(l.last) > 0 {
		l.last = e.Rank
	}
	heap.Push(l, e)
}

// position returns the place of an entry, from 1.
func (l *line[T]) position(e *entry[T]) int {
	// Who comes with no lower priority than the others goes to the end, so this
	// is the usual case.
	if e.Rank.Compare(l.last) >= 0 {
		return len(l.entries)
	}
	return l.before(e.Rank, 0) + 1
}

// before counts the entries with a lower rank in the part of the heap below
// index i. Nothing below an entry that is not before the rank is before it
// either, so it visits at most two entries for each that it counts, and one.
func (l *line[T]) before(rank Rank, i int) int {
	if i >= len(l.entries) || l.entries[i].Rank.Compare(rank) >= 0 {
		return 0
	}
	return 1 + l.before(rank, 2*i+1) + l.before(rank, 2*i+2)
}
