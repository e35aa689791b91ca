package enhanced

import "sync"

// toldChanges has changes of which callbacks are told twice, once by the call that
// made or awaited it and once by the store's log: so that only the first one tells
// them. A call and its record are apart for as long as the log is behind.
type toldChanges struct {
	mu   sync.Mutex // protects all below
	once map[string]bool
	// order is that in which they came; the oldest makes room.
	order [maxTold]string
	next  int
}

// maxTold bounds the changes that are remembered. Of most that come from the log no
// call of this manager is to come.
const maxTold = 4096

// first reports whether a change has not been told yet. What can come only once is
// always first.
func (t *toldChanges) first(eventType, lockID string) bool {
	switch eventType {
	case EventGranted, EventClaimed, EventReserved:
	default:
		return true
	}
	key := eventType + " " + lockID
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.once[key] {
		delete(t.once, key)
		return false
	}
	if t.once == nil {
		t.once = make(map[string]bool)
	}
	delete(t.once, t.order[t.next])
	t.once[key], t.order[t.next] = true, key
	t.next = (t.next + 1) % maxTold
	return true
}
