package enhanced

import (
	"context"
	"sync"
	"sync/atomic"
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
	// toldGranted: it was granted to who waited.
	toldGranted toldKind = 1 << iota
	// toldTaken: its owner has it: it was acquired or claimed.
	toldTaken
)

// first reports whether callbacks are still to be told of an event, and remembers
// that they are. Other events than those of grants are always to be told.
func (g *toldGrants) first(eventType, lockID string) bool {
	kind, unlessTold := toldTaken, toldGranted|toldTaken
	switch eventType {
	case EventAcquired:
	case EventGranted:
		kind = toldGranted
	case EventClaimed:
		unlessTold = toldTaken // who claims was granted it before
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

// ReportGrant is for backends: it says, before a call that acquires returns a
// lock, how the call got it, if that is by [EventGranted], after it has waited in
// the queue, or by [EventClaimed]. A lock that nothing is said of was free. The
// context is that of the call; without callbacks it does nothing.
func ReportGrant(ctx context.Context, eventType string) {
	if report, asked := ctx.Value(grantKey{}).(*atomic.Pointer[string]); asked {
		report.Store(&eventType)
	}
}

// hearGrant returns a context for a call that acquires, and a function that says
// afterwards by which event the call got its lock.
func (m *EnhancedLockManager) hearGrant(ctx context.Context) (context.Context, func() string) {
	if !m.state.Load().config.EnableEvents {
		return ctx, func() string { return EventAcquired }
	}
	report := new(atomic.Pointer[string])
	return context.WithValue(ctx, grantKey{}, report), func() string {
		if eventType := report.Load(); eventType != nil {
			return *eventType
		}
		return EventAcquired
	}
}
