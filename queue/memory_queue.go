package queue

import "sync"

// MemoryQueue is one line in memory, first come first served, for basic needs:
// no priorities, no IDs, and nobody leaves from the middle. Where resources must
// not hold up each other, use one for each, or a [PriorityQueue]. Make one with
// [NewMemoryQueue]. All methods may be called concurrently.
type MemoryQueue[T any] struct {
	limit int

	mu sync.Mutex // protects all below
	// ring has the values from head on, wrapping around; the other slots are
	// zero.
	ring []T
	head int
	size int
}

// minRing is the room for values that a queue starts with, where its limit is
// not smaller.
const minRing = 16

// NewMemoryQueue returns an empty queue in which up to limit values wait. Zero
// means [DefaultLimit]; the error for a negative limit matches [ErrInvalid]. A
// large limit costs nothing until it is used.
func NewMemoryQueue[T any](limit int) (*MemoryQueue[T], error) {
	limit, err := limitOf(limit)
	if err != nil {
		return nil, err
	}
	return &MemoryQueue[T]{limit: limit}, nil
}

// Push lets a value wait and returns its position, where 1 is served next. A
// [FullError], which changes nothing, says that as many as the limit wait. It
// costs O(1) on average: now and then the room is doubled.
func (q *MemoryQueue[T]) Push(value T) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size >= q.limit {
		return 0, &FullError{Size: q.size, Limit: q.limit}
	}
	if q.size == len(q.ring) {
		ring := make([]T, min(max(2*q.size, minRing), q.limit))
		q.copy(ring)
		q.ring, q.head = ring, 0
	}
	q.ring[q.slot(q.size)] = value
	q.size++
	return q.size, nil
}

// Pop takes the value out that has waited longest. It reports false when none
// waits. It costs O(1).
func (q *MemoryQueue[T]) Pop() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var zero T
	if q.size == 0 {
		return zero, false
	}
	value := q.ring[q.head]
	q.ring[q.head] = zero
	q.head = q.slot(1)
	q.size--
	return value, true
}

// Peek returns the value that Pop would take. It reports false when none waits.
// It costs O(1).
func (q *MemoryQueue[T]) Peek() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size == 0 {
		var zero T
		return zero, false
	}
	return q.ring[q.head], true
}

// Len returns how many values wait. It costs O(1).
func (q *MemoryQueue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size
}

// Items returns the values that wait, in the order in which they came. It costs
// O(n) for n of them.
func (q *MemoryQueue[T]) Items() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := make([]T, q.size)
	q.copy(items)
	return items
}

// slot returns where the ring has the value with i others before it. It is for
// a ring that is not empty; the caller holds q.mu.
func (q *MemoryQueue[T]) slot(i int) int { return (q.head + i) % len(q.ring) }

// copy copies the values in their order. The caller holds q.mu.
func (q *MemoryQueue[T]) copy(to []T) {
	n := copy(to[:q.size], q.ring[q.head:])
	copy(to[n:q.size], q.ring)
}
