package history

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Never is the return of a call whose outcome is unknown.
const Never int64 = math.MaxInt64

// Kind is what an operation asks for.
type Kind string

// The kinds of operation.
const (
	// Acquire asks for the lock of a resource, without waiting.
	Acquire Kind = "acquire"
	// Release ends the grant with a token.
	Release Kind = "release"
	// ReleaseOwned ends whatever grant its owner has on the resource.
	ReleaseOwned Kind = "release-owned"
	// ForceRelease ends whatever grant there is.
	ForceRelease Kind = "force-release"
	// Refresh makes the lease of the grant with a token end later or earlier.
	Refresh Kind = "refresh"
	// Transfer gives the grant with a token to another owner, as a new grant.
	Transfer Kind = "transfer"
	// Lookup reads who holds the resource.
	Lookup Kind = "lookup"
	// ReleaseByPull is the part of a release-by-pull that is about one resource.
	ReleaseByPull Kind = "release-by-pull"

	// atEnd stands after everything that was answered, see step.
	atEnd Kind = "end"
)

// Answer is how an operation was answered.
type Answer string

// The answers.
const (
	// Done: as asked. The lock is the one that was granted, released or found.
	Done Answer = "done"
	// Held: refused, the lock is the holder's.
	Held Answer = "held"
	// Absent: nothing is held there, or no lock has that ID.
	Absent Answer = "absent"
	// Expired: that grant's lease has ended; or, of an acquire, what the same
	// request got before has ended.
	Expired Answer = "expired"
	// Denied: somebody else holds it, the lock is the holder's.
	Denied Answer = "denied"
	// Invalid: such a thing can't be asked, of this lock at least.
	Invalid Answer = "invalid"
	// Nothing: the call ended early and says that it had no effect.
	Nothing Answer = "nothing"
	// Failed: the store failed and says that nothing changed.
	Failed Answer = "failed"
	// Unknown: it may have happened, or may still happen.
	Unknown Answer = "unknown"
)

// Lock is what an answer says of a lock.
type Lock struct {
	Token int64  `json:"token,string"`
	Owner string `json:"owner"`
	// Expires is the end of the lease by the store's clock, microseconds, 0
	// without a lease.
	Expires int64 `json:"expires,omitempty"`
	// Closed is set for a lock that has ended, whose resource is still closed to others
	// than its owner. Expires is the end of that.
	Closed bool `json:"closed,omitempty"`
}

// Operation is one call on one resource, and its answer.
type Operation struct {
	// Client is who called. A client has one call under way at a time.
	Client int  `json:"client"`
	Kind   Kind `json:"kind"`
	// Repository and Resource, its key, name what is locked.
	Repository string `json:"repository"`
	Resource   string `json:"resource"`

	// Owner asks for the lock, or gets it by a transfer.
	Owner string `json:"owner,omitempty"`
	// Request is the ID of an acquire.
	Request string `json:"request,omitempty"`
	// InTurn is set for an acquire that waits: when its time is over, the store may
	// give back what it got by then.
	InTurn bool `json:"in_turn,omitempty"`
	// Lease is asked for by an acquire, 0 for none, and by a refresh.
	Lease time.Duration `json:"lease,omitempty"`
	// Token names the grant that a release, refresh or transfer is for.
	Token int64 `json:"token,string,omitempty"`
	// PullRepository and PullNumber are those of a release-by-pull.
	PullRepository string `json:"pull_repository,omitempty"`
	PullNumber     int    `json:"pull_number,omitempty"`

	// Call and Return are nanoseconds since the recorder's start.
	Call   int64 `json:"call"`
	Return int64 `json:"return"`

	Answer Answer `json:"answer"`
	Lock   *Lock  `json:"lock,omitempty"`
	// Error is the text of the answer's error, for people.
	Error string `json:"error,omitempty"`
}

// answerTo classifies an error by what it claims.
func answerTo(err error) Answer {
	var refusal *enhanced.LockError
	switch {
	case err == nil:
		return Done
	case errors.Is(err, enhanced.ErrOutcomeUnknown) || !errors.As(err, &refusal):
		// An error that isn't the store's own, such as a bare context error,
		// claims nothing.
		return Unknown
	}
	switch refusal.Code {
	case enhanced.ErrCodeLockExists:
		return Held
	case enhanced.ErrCodeLockNotFound:
		return Absent
	case enhanced.ErrCodeLockExpired:
		return Expired
	case enhanced.ErrCodePermissionDenied:
		return Denied
	case enhanced.ErrCodeInvalidRequest:
		return Invalid
	case enhanced.ErrCodeBackendError:
		return Failed
	default:
		return Nothing
	}
}

// holderOf returns the lock that an error names as standing in the way.
func holderOf(err error) *enhanced.EnhancedLock {
	var refusal *enhanced.LockError
	if errors.As(err, &refusal) {
		return refusal.Holder
	}
	return nil
}

func lockOf(lock *enhanced.EnhancedLock) *Lock {
	if lock == nil {
		return nil
	}
	l := &Lock{Token: lock.Version, Owner: lock.Owner, Closed: lock.ID == ""}
	if lock.ExpiresAt != nil {
		l.Expires = lock.ExpiresAt.UnixMicro()
	}
	return l
}

// place is one resource, the unit that is judged.
type place struct{ repository, resource string }

func (p place) String() string { return p.repository + " " + p.resource }

func (op Operation) place() place { return place{op.Repository, op.Resource} }

// byPull reports whether owner is the pull request of a release-by-pull, which
// knows no host.
func (op Operation) byPull(owner string) bool {
	o, err := enhanced.ParseOwner(owner)
	return err == nil && o.Kind == enhanced.OwnerPull && o.Repository == op.PullRepository && o.Number == op.PullNumber
}

// String describes the operation on one line.
func (op Operation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d %s", op.Client, op.Kind)
	if op.Token != 0 {
		fmt.Fprintf(&b, " token %d", op.Token)
	}
	if op.Owner != "" {
		fmt.Fprintf(&b, " for %s", op.Owner)
	}
	if op.Request != "" {
		fmt.Fprintf(&b, " request %s", op.Request)
	}
	if op.PullRepository != "" {
		fmt.Fprintf(&b, " %s#%d", op.PullRepository, op.PullNumber)
	}
	if op.Lease != 0 {
		fmt.Fprintf(&b, " lease %v", op.Lease)
	}
	fmt.Fprintf(&b, " at %v", time.Duration(op.Call))
	if op.Return != Never {
		fmt.Fprintf(&b, " to %v", time.Duration(op.Return))
	}
	fmt.Fprintf(&b, ": %s", op.Answer)
	if op.Lock != nil {
		fmt.Fprintf(&b, " (token %d of %s", op.Lock.Token, op.Lock.Owner)
		if op.Lock.Closed {
			b.WriteString(", closed")
		}
		if op.Lock.Expires != 0 {
			fmt.Fprintf(&b, " until %s", time.UnixMicro(op.Lock.Expires).UTC().Format("15:04:05.000000"))
		}
		b.WriteByte(')')
	}
	return b.String()
}
