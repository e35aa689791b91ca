package timeout

import "math/bits"

// wheel has timers by the tick at which they are due, in a hierarchy of wheels
// of 64 slots: scheme 7 of Varghese and Lauck, "Hashed and hierarchical timing
// wheels" (SOSP 1987), https://doi.org/10.1145/41457.37504. To add or remove a
// timer takes constant time, and one is moved at most once for each level before
// it is due, however many there are.
//
// A timer is in the level of the highest digit, to the base of 64, in which its
// tick differs from now. So the slots of a level that are in use are all above
// now's own digit there, nothing wraps around, and all timers of a level are due
// before those of the next.
type wheel struct {
	now    uint64 // the tick up to which timers have been taken
	levels [levels]level
	size   int
}

const (
	digitBits = 6
	slots     = 1 << digitBits
	levels    = (64 + digitBits - 1) / digitBits
)

type level struct {
	used  uint64 // a bit for each slot that has timers
	slots [slots]*Timer
}

// put adds a timer that is due after now.
func (w *wheel) put(t *Timer) {
	t.level = (bits.Len64(w.now^t.due) - 1) / digitBits
	t.slot = int(t.due>>(digitBits*t.level)) & (slots - 1)
	l := &w.levels[t.level]
	t.previous, t.next = nil, l.slots[t.slot]
	if t.next != nil {
		t.next.previous = t
	}
	l.slots[t.slot] = t
	l.used |= 1 << t.slot
	w.size++
}

func (w *wheel) remove(t *Timer) {
	l := &w.levels[t.level]
	if t.previous != nil {
		t.previous.next = t.next
	} else if l.slots[t.slot] = t.next; t.next == nil {
		l.used &^= 1 << t.slot
	}
	if t.next != nil {
		t.next.previous = t.previous
	}
	t.previous, t.next = nil, nil
	w.size--
}

// wake returns the tick at which to look next: no timer is due before it. It
// returns false when there are none.
func (w *wheel) wake() (uint64, bool) {
	l, slot, ok := w.first()
	if !ok {
		return 0, false
	}
	return w.start(l, slot), true
}

func (w *wheel) first() (level, slot int, ok bool) {
	for i := range w.levels {
		if used := w.levels[i].used; used != 0 {
			return i, bits.TrailingZeros64(used), true
		}
	}
	return 0, 0, false
}

// start is the first tick of a slot.
func (w *wheel) start(level, slot int) uint64 {
	shift := digitBits * level
	above := w.now >> shift &^ (slots - 1) << shift
	return above | uint64(slot)<<shift //nolint:gosec // a slot is 0 to 63
}

// advance goes to a tick and calls take for each timer that is due by then,
// those of earlier ticks first.
func (w *wheel) advance(to uint64, take func(*Timer)) {
	for {
		l, slot, ok := w.first()
		if !ok {
			break
		}
		start := w.start(l, slot)
		if start > to {
			break
		}
		w.now = start
		for t := w.levels[l].slots[slot]; t != nil; t = w.levels[l].slots[slot] {
			w.remove(t)
			if t.due <= w.now {
				take(t)
			} else {
				w.put(t) // at a lower level
			}
		}
	}
	w.now = max(w.now, to)
}
