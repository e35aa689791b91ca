package enhanced

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
)

// Outcomes of a [DeadlockReport].
const (
	// DeadlockRefused: the request would have closed the cycle, and is not queued.
	DeadlockRefused = "refused"
	// DeadlockReordered: moving waiters to the front of their queues has dissolved
	// the cycle; nobody gave up.
	DeadlockReordered = "reordered"
	// DeadlockVictim: a waiter was taken out of its queue.
	DeadlockVictim = "victim"
	// DeadlockFound: the cycle is there; with PolicyNone nobody is taken out.
	DeadlockFound = "found"
)

// DeadlockReport is what the log keeps of a deadlock.
type DeadlockReport struct {
	// Outcome is one of the Deadlock constants.
	Outcome string
	// Policy has chosen the victim. Empty for DeadlockRefused and
	// DeadlockReordered, where none was chosen.
	Policy string
	// Cycle has the waits: each one's For is the next one's Owner, and the last
	// one's is the first one's.
	Cycle []DeadlockWait
	// Moved are the waiters that went to the front of their queues, in the order in
	// which they did. Their For is empty.
	Moved []DeadlockWait
}

// DeadlockWait is one wait of a deadlock.
type DeadlockWait struct {
	// Owner is who waits, in text form.
	Owner     string
	Resource  ResourceIdentifier
	RequestID string
	// Since is when the wait began.
	Since time.Time
	// For is whom it waits for, in text form.
	For string
	// Behind says that For is before Owner in the queue. Otherwise it holds the
	// resource.
	Behind bool
}

// DeadlockStore is a backend that can look for deadlocks among its waiters. The
// names of resources in its graphs are those of [FormatGraphResource].
type DeadlockStore interface {
	// WaitForGraph returns who holds what and who waits for it, in the whole store.
	// It can be out of date when it is looked at.
	WaitForGraph(ctx context.Context) (*deadlock.Graph, error)
	// EndDeadlock ends a deadlock, in one step that looks at every edge of the cycle
	// again first. It returns what it has done, and nil where the cycle is not there
	// any more: then nothing has changed.
	EndDeadlock(ctx context.Context, ending DeadlockEnding) (*DeadlockReport, error)
}

// DeadlockEnding says how [DeadlockStore.EndDeadlock] is to end a deadlock.
type DeadlockEnding struct {
	Cycle deadlock.Cycle
	// Victim is the waiter of the cycle that leaves its queue where re-ordering
	// queues does not dissolve it. Nil only reports the cycle.
	Victim *deadlock.Waiter
	// Policy has chosen it.
	Policy string
	// ReleaseHeld also releases, by force, the lock of the victim's owner that the
	// cycle waits for.
	ReleaseHeld bool
}

// FormatGraphResource returns a resource's name in a [deadlock.Graph]: unlike
// its Key, it says which repository's it is. [ParseGraphResource] reverses it.
func FormatGraphResource(r ResourceIdentifier) string { return r.Namespace + "\x00" + r.Key() }

// ParseGraphResource returns the resource with a name of [FormatGraphResource].
func ParseGraphResource(name string) (ResourceIdentifier, error) {
	repository, key, _ := strings.Cut(name, "\x00")
	return ParseResourceKey(repository, key)
}

// NewDeadlockReport returns the report of a cycle whose resources have names of
// [FormatGraphResource].
func NewDeadlockReport(outcome, policy string, cycle deadlock.Cycle, moved []deadlock.Waiter) (*DeadlockReport, error) {
	report := &DeadlockReport{Outcome: outcome, Policy: policy}
	for _, e := range cycle {
		wait, err := newDeadlockWait(e.Waiter)
		if err != nil {
			return nil, err
		}
		wait.For, wait.Behind = e.For, e.Soft
		report.Cycle = append(report.Cycle, wait)
	}
	for _, w := range moved {
		wait, err := newDeadlockWait(w)
		if err != nil {
			return nil, err
		}
		report.Moved = append(report.Moved, wait)
	}
	return report, nil
}

func newDeadlockWait(w deadlock.Waiter) (DeadlockWait, error) {
	resource, err := ParseGraphResource(w.Resource)
	return DeadlockWait{Owner: w.Owner, Resource: resource, RequestID: w.Request, Since: w.Since}, err
}

// Graph returns the cycle with owners and resources in words, for
// [deadlock.Cycle.DOT] and the like.
func (r *DeadlockReport) Graph() deadlock.Cycle {
	cycle := make(deadlock.Cycle, len(r.Cycle))
	for i, w := range r.Cycle {
		cycle[i] = deadlock.Edge{
			Waiter: deadlock.Waiter{
				Owner: DescribeOwner(w.Owner), Resource: w.Resource.String(), Request: w.RequestID, Since: w.Since,
			},
			For: DescribeOwner(w.For), Soft: w.Behind,
		}
	}
	return cycle
}

// maxShownWaits is how many waits of a cycle an error's message names.
const maxShownWaits = 8

// String says in words who waits for whom.
func (r *DeadlockReport) String() string {
	cycle := r.Graph()
	if more := len(cycle) - maxShownWaits; more > 1 {
		return fmt.Sprintf("%v; and so on for %d more waits, back to %s", cycle[:maxShownWaits], more, cycle[0].Owner)
	}
	return cycle.String()
}

// NewDeadlockError returns the DEADLOCK error for a request of an owner, in text
// form, that was refused or taken out of its queue. Its message names the cycle.
func NewDeadlockError(resource ResourceIdentifier, owner string, report *DeadlockReport, holder *EnhancedLock) *LockError {
	what := fmt.Sprintf("%s can't wait for %s, they would wait for each other for ever", DescribeOwner(owner), resource)
	if report.Outcome == DeadlockVictim {
		what = fmt.Sprintf("%s does not wait for %s any more, by the policy %s: they waited for each other for ever",
			DescribeOwner(owner), resource, report.Policy)
	}
	return &LockError{
		Code: ErrCodeDeadlock, Resource: resource, Holder: holder,
		Message: fmt.Sprintf("%s: %v; unlock one of these, or cancel one of these requests", what, report),
	}
}
