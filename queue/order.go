package queue

import (
	"cmp"
	"fmt"
	"time"
)

// The bounds within which every rank is exact.
const (
	// MinPriority is the lowest priority.
	MinPriority = -1000
	// MaxPriority is the highest priority.
	MaxPriority = 1000
	// MaxSequence is the largest sequence that a strict score tells from the
	// next one: at a million entries a second it is reached in 50 days. Beyond
	// it [Rank].Sequence alone decides.
	MaxSequence = 1<<42 - 1
	// MaxAgingInterval is the longest [Order].AgingInterval: 365 days.
	MaxAgingInterval = 365 * 24 * time.Hour
)

const (
	// maxMillis is how far from 1970 a time may be, in milliseconds: 71,000
	// years. Scores of Order.Rank stay above -moved with it.
	maxMillis = 1 << 51
	// moved is the distance of moved scores from zero. Together with the number
	// of the move it stays below 2^53, where a float64 loses whole numbers.
	moved = 1 << 52
)

// Order says who is served first. Its zero value is the strict order: higher
// priority first, first come first served within one. The package comment
// compares it with ageing.
//
// An Order is a plain value. Its methods are pure functions, which never fail:
// [Order.Validate] is for the place where a configuration enters, and what is
// out of bounds nevertheless counts as the nearest bound.
type Order struct {
	// AgingInterval is the wait that lifts a waiter by one priority: whole
	// milliseconds, up to MaxAgingInterval. Zero is no ageing.
	AgingInterval time.Duration
}

// Rank is the place of a waiter in the order: the lower is served first. Ranks
// of one Order, and those of moved waiters, are compared with each other; those
// of different Orders can't be. Ranks are comparable values.
type Rank struct {
	// Score decides. It is below 2^53 either way, so a float64 keeps it exactly,
	// as the sorted sets of Redis need.
	Score int64
	// Sequence decides between equal scores.
	Sequence uint64
}

// Compare returns a negative number when r is served before other, a positive
// one when it is served after it, and zero when they are equal.
func (r Rank) Compare(other Rank) int {
	return cmp.Or(cmp.Compare(r.Score, other.Score), cmp.Compare(r.Sequence, other.Sequence))
}

// Validate returns an error that matches [ErrInvalid] and names the value when
// the order is out of bounds.
func (o Order) Validate() error {
	if o.AgingInterval < 0 || o.AgingInterval > MaxAgingInterval || o.AgingInterval%time.Millisecond != 0 {
		return fmt.Errorf("%w: ageing interval %v is not whole milliseconds from 0 to %v",
			ErrInvalid, o.AgingInterval, MaxAgingInterval)
	}
	return nil
}

// Rank returns the rank of a waiter with a priority ([MinPriority] to
// [MaxPriority]) that came at the time enqueued, as number sequence of all that
// came.
//
// First come is first served within one priority if sequences grow and, with
// ageing, times never run backwards: take them from one clock, and the latest
// time seen where that clock was set back. A strict order does not look at the
// time. Ageing counts whole milliseconds, with ties decided by the sequence.
func (o Order) Rank(priority int, enqueued time.Time, sequence uint64) Rank {
	priority = min(max(priority, MinPriority), MaxPriority)
	if o.AgingInterval <= 0 {
		return Rank{
			Score:    int64(MaxPriority-priority)*(MaxSequence+1) + int64(min(sequence, MaxSequence)), //nolint:gosec // below 2^53
			Sequence: sequence,
		}
	}
	interval := min(max(o.AgingInterval, time.Millisecond), MaxAgingInterval).Milliseconds()
	return Rank{Score: millis(enqueued) - int64(priority)*interval, Sequence: sequence}
}

// Moved returns the rank of a waiter that is moved to the front, where moves is
// how many moves there were up to this one. It is before every rank that
// [Order.Rank] gives and before those of earlier moves. More than 2^52 moves
// are not told apart.
func (o Order) Moved(moves uint64) Rank {
	return Rank{Score: -moved - int64(min(moves, moved-1))} //nolint:gosec // below 2^53
}

// millis returns t in milliseconds since 1970. It compares times first because
// those far away have no such number.
func millis(t time.Time) int64 {
	switch {
	case t.Before(time.UnixMilli(-maxMillis)):
		return -maxMillis
	case t.After(time.UnixMilli(maxMillis)):
		return maxMillis
	}
	return t.UnixMilli()
}
