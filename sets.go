package enhanced

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// MaxSetSize is how many resources of one repository a set can have: what one
// step of a store changes.
const MaxSetSize = 500

// SetLocker is a backend that takes the locks of several resources of one
// repository in one step: all of them or none. All methods are safe for concurrent
// use. What the requests of a set got is remembered like that of single ones, see
// [Backend]: the same set again answers with the same locks.
type SetLocker interface {
	// AcquireAll takes the locks of a set of requests, see [NormalizeSet], for
	// resources of one repository. It answers the locks in the order of the
	// requests, without repetitions. LOCK_EXISTS, with nothing taken, when one of
	// the resources is held: by others, or by the owner itself, whose locks a set
	// does not take a second time. With wait set, and where the queue is on, it waits
	// for the others instead, until all can be taken in one step; meanwhile it holds
	// nothing. Its errors are those of [Backend.AcquireLock] then.
	AcquireAll(ctx context.Context, requests []*EnhancedLockRequest, wait bool) ([]*EnhancedLock, error)
	// ReplaceAll makes the wanted locks all that the owner holds in a repository,
	// in one step. See [EnhancedLockManager.ReplaceLocks]; it never waits.
	ReplaceAll(ctx context.Context, repository string, owner Owner, wanted []*EnhancedLockRequest) (*ReplacedLocks, error)
}

// SetManager is a manager that takes several locks at once.
type SetManager interface {
	// LockAll is [EnhancedLockManager.LockAll].
	LockAll(ctx context.Context, requests []*EnhancedLockRequest) ([]*EnhancedLock, error)
	// ReplaceLocks is [EnhancedLockManager.ReplaceLocks].
	ReplaceLocks(ctx context.Context, owner Owner, wanted []*EnhancedLockRequest) (*ReplacedLocks, error)
}

var _ SetManager = (*EnhancedLockManager)(nil)

// ReplacedLocks is what [EnhancedLockManager.ReplaceLocks] has done.
type ReplacedLocks struct {
	// Held are the locks that were wanted, in that order. One that the owner held
	// before is as it was: the same ID, token, lease and metadata.
	Held []*EnhancedLock
	// Taken are those of Held that the owner did not hold before: new ones, and those that
	// it had been given after a wait, and has claimed with this.
	Taken []*EnhancedLock
	// Freed are the locks that the owner held and that were not wanted.
	Freed []*EnhancedLock
}

// NormalizeSet is [NormalizeRequest] for the requests of a set. Of several for one
// resource the first one counts. All have the same owner: a pull request is one of
// its repository, so its sets are in one repository. Errors are INVALID_REQUEST:
// what NormalizeRequest refuses, two owners, an ID that two requests have, and
// more than [MaxSetSize] resources of one repository.
func NormalizeSet(requests []*EnhancedLockRequest, defaultLease, maxLease time.Duration) ([]*EnhancedLockRequest, error) {
	set := make([]*EnhancedLockRequest, 0, len(requests))
	resources := make(map[ResourceIdentifier]bool, len(requests))
	ids := make(map[string]ResourceIdentifier, len(requests))
	sizes := make(map[string]int)
	for _, request := range requests {
		r, err := NormalizeRequest(request, defaultLease, maxLease)
		if err != nil {
			return nil, err
		}
		if len(set) > 0 && r.Owner() != set[0].Owner() {
			return nil, NewInvalidError("a set has one owner: %s is asked for by %s, and %s by %s",
				set[0].Resource, set[0].Owner(), r.Resource, r.Owner())
		}
		if resources[r.Resource] {
			continue
		}
		if other, used := ids[r.ID]; used {
			return nil, NewInvalidError("request ID %q is that of %s and of %s; IDs are for one request", r.ID, other, r.Resource)
		}
		resources[r.Resource], ids[r.ID] = true, r.Resource
		if sizes[r.Resource.Namespace]++; sizes[r.Resource.Namespace] > MaxSetSize {
			return nil, NewInvalidError("the set has more than %d resources of %q; one step changes %d at most", MaxSetSize, r.Resource.Namespace, MaxSetSize)
		}
		set = append(set, r)
	}
	return set, nil
}

// Blocked is a resource of a set that can't be taken.
type Blocked struct {
	Resource ResourceIdentifier
	// Holder is the lock that stands in the way, nil for a record that can't be
	// read; then Record names it.
	Holder *EnhancedLock
	Record string
}

// maxNamed is how many resources a refusal names.
const maxNamed = 20

// NewSetHeldError returns the LOCK_EXISTS error for a set of size resources of an
// owner, of which count are held: blocked, or those that come first of them. It
// names up to 20 with their holders. Its holder is the owner itself where that holds
// one, else the first.
func NewSetHeldError(size, count int, owner Owner, blocked []Blocked) *LockError {
	refusal := &LockError{Code: ErrCodeLockExists, Resource: blocked[0].Resource, Holder: blocked[0].Holder}
	var named []string
	own := false
	for _, b := range blocked {
		if b.Holder == nil {
			corrupt := NewCorruptError(b.Resource, b.Record)
			refusal.Err = corrupt.Err
			named = append(named, corrupt.Message)
			continue
		}
		named = append(named, NewHeldError(b.Resource, b.Holder).Message)
		if !own && b.Holder.Owner == owner.String() {
			own = true
			refusal.Resource, refusal.Holder = b.Resource, b.Holder
		}
	}
	named = named[:min(len(named), maxNamed)]
	if more := count - len(named); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	are := "are"
	if count == 1 {
		are = "is"
	}
	refusal.Message = fmt.Sprintf("%d of %d %s locked, none was taken: %s", count, size, are, strings.Join(named, "; "))
	if own {
		refusal.Message += "; a set takes what its owner does not hold yet"
	}
	return refusal
}
