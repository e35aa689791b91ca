package enhanced

import (
	"cmp"
	"context"
	"sync"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/deadline"
)

// toldMemory is how many of the last grants are remembered. One that is told of
// by the store more than so many grants after the call, or before it, is told of
// twice.
const toldMemory = 4096

// toldGrants remembers of which grants callbacks were told: a call that has waited
// learns of its grant by itself, and a started manager from the store's log, too.
type toldGrants struct {
	mu     sync.Mutex          // protects all below
	byID   map[string]toldKind // by lock ID, which each grant has its own of
	recent []string            // the IDs of byID, a ring
	next   int
}

// toldKind is what was told of a grant.
type toldKind uint8

const (
	toldAcquired toldKind = 1 << iota
	toldGranted
	toldClaimed
)

// first reports whether callbacks are still to be told of an event, and remembers
// that they are. Other events than those of grants are always to be told.
func (g *toldGrants) first(eventType, lockID string) bool {
	var kind, unlessTold toldKind
	switch eventType {
	case EventAcquired: // from a call, where nothing better is known
		kind, unlessTold = toldAcquired, toldAcquired|toldGranted|toldClaimed
	case EventGranted:
		kind, unlessTold = toldGranted, toldAcquired|toldGranted
	case EventClaimed: // of what was granted before
		kind, unlessTold = toldClaimed, toldAcquired|toldClaimed
	default:
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	told, known := g.byID[lockID]
	if told&unlessTold != 0 {
		return false
	}
	if !known {
		g.remember(lockID)
	}
	g.byID[lockID] = told | kind
	return true
}

// remember makes room for an ID.
func (g *toldGrants) remember(lockID string) {
	if g.byID == nil {
		g.byID = make(map[string]toldKind)
	}
	if len(g.recent) < toldMemory {
		g.recent = append(g.recent, lockID)
		return
	}
	delete(g.byID, g.recent[g.next])
	g.recent[g.next] = lockID
	g.next = (g.next + 1) % toldMemory
}

// grantKey is the key of a context's value that takes what [ReportGrant] says.
type grantKey struct{}

// heardGrants is what was said of the locks that a call has got.
type heardGrants struct {
	mu  sync.Mutex        // protects all below
	all string            // the event of all of them
	of  map[string]string // the event of one, by lock ID
}

// ReportGrant is for backends: it says, before a call that acquires returns what it
// has got, how it got that, if it is by [EventGranted], after it has waited in the
// queue, or by [EventClaimed]. It is about the locks with these IDs, without any about
// all that the call returns. A lock that nothing is said of was free. The context is
// that of the call; without callbacks it does nothing.
func ReportGrant(ctx context.Context, eventType string, lockIDs ...string) {
	heard, asked := ctx.Value(grantKey{}).(*heardGrants)
	if !asked {
		return
	}
	heard.mu.Lock()
	defer heard.mu.Unlock()
	if len(lockIDs) == 0 {
		heard.all = eventType
		return
	}
	if heard.of == nil {
		heard.of = make(map[string]string, len(lockIDs))
	}
	for _, id := range lockIDs {
		heard.of[id] = eventType
	}
}

// by returns the event by which the call got a lock, nil for none.
func (h *heardGrants) by(lock *EnhancedLock) string {
	if h == nil || lock == nil {
		return EventAcquired
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return cmp.Or(h.of[lock.ID], h.all, EventAcquired)
}

// hearGrant returns a context for a call that acquires, and what is said there of what
// it has got.
func (m *EnhancedLockManager) hearGrant(ctx context.Context) (context.Context, *heardGrants) {
	if !m.state.Load().config.EnableEvents {
		return ctx, nil
	}
	heard := new(heardGrants)
	return deadline.WithValue(ctx, grantKey{}, heard), heard
}
