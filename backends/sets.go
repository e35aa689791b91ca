package backends

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

var (
	_ enhanced.SetLocker = (*BoltBackend)(nil)
	_ enhanced.SetLocker = (*RedisBackend)(nil)
)

// lockSet is a set of requests for resources of one repository, as it was asked
// for and as a step takes it: in the order of the resources' keys.
type lockSet struct {
	asked, requests []*enhanced.EnhancedLockRequest
}

// newLockSet normalizes a set. With unique set, several resources with one key in
// stock Atlantis' form are refused: they exclude each other.
func newLockSet(requests []*enhanced.EnhancedLockRequest, lease, limit time.Duration, unique bool) (lockSet, error) {
	asked, err := enhanced.NormalizeSet(requests, lease, limit)
	if err != nil {
		return lockSet{}, err
	}
	keys := make(map[string]enhanced.ResourceIdentifier, len(asked))
	for _, r := range asked {
		if name := asked[0].Resource.Namespace; r.Resource.Namespace != name {
			return lockSet{}, enhanced.NewInvalidError("a step is of one repository: %s and %s are of two", asked[0].Resource, r.Resource)
		}
		if !unique || r.Resource.Type != enhanced.ResourceTypeProject {
			continue
		}
		key := r.Resource.LegacyKey()
		if other, found := keys[key]; found {
			return lockSet{}, enhanced.NewInvalidError("%s and %s are one lock in Atlantis' own form; a set can have one of them", other, r.Resource)
		}
		keys[key] = r.Resource
	}
	set := lockSet{asked: asked, requests: slices.Clone(asked)}
	slices.SortFunc(set.requests, func(x, y *enhanced.EnhancedLockRequest) int {
		return cmp.Compare(x.Resource.Key(), y.Resource.Key())
	})
	return set, nil
}

// newSetToTake is newLockSet for a set that is not empty.
func newSetToTake(requests []*enhanced.EnhancedLockRequest, lease, limit time.Duration, unique bool) (lockSet, error) {
	if len(requests) == 0 {
		return lockSet{}, enhanced.NewInvalidError("the set has no requests; give at least one")
	}
	return newLockSet(requests, lease, limit, unique)
}

// newSetToHold is newLockSet for what an owner is to hold in a repository.
func newSetToHold(repository string, owner enhanced.Owner, wanted []*enhanced.EnhancedLockRequest, lease, limit time.Duration, unique bool) (lockSet, error) {
	set, err := newLockSet(wanted, lease, limit, unique)
	if err != nil {
		return set, err
	}
	if len(wanted) == 0 {
		return set, nil
	}
	named, err := enhanced.ReplacedRepository(owner, set.asked)
	if err == nil && named != repository {
		err = enhanced.NewInvalidError("%s is wanted, which is not of repository %q", set.asked[0].Resource, repository)
	}
	return set, err
}

// inOrder returns the locks in the order in which they were asked for.
func (s lockSet) inOrder(locks []*enhanced.EnhancedLock) []*enhanced.EnhancedLock {
	byResource := make(map[enhanced.ResourceIdentifier]*enhanced.EnhancedLock, len(locks))
	for _, lock := range locks {
		byResource[lock.Resource] = lock
	}
	ordered := make([]*enhanced.EnhancedLock, 0, len(s.asked))
	for _, r := range s.asked {
		if lock := byResource[r.Resource]; lock != nil {
			ordered = append(ordered, lock)
		}
	}
	return ordered
}

// replacement is what a step has replaced; claimed are the IDs of the locks that the owner
// had been given, and now has claimed.
type replacement struct {
	enhanced.ReplacedLocks
	claimed []string
}

// answer is the answer to the call for a set.
func (r *replacement) answer(ctx context.Context, set lockSet) *enhanced.ReplacedLocks {
	reportClaims(ctx, r.claimed)
	r.Held, r.Taken = set.inOrder(r.Held), set.inOrder(r.Taken)
	return &r.ReplacedLocks
}

// operation says what is done, for errors.
func (s lockSet) operation() string {
	return fmt.Sprintf("acquire %d resources of %q", len(s.asked), s.asked[0].Resource.Namespace)
}

// tooManyError is the answer to an owner that would hold and give up more than one
// step changes.
func tooManyError(repository string, owner enhanced.Owner, count int) error {
	return enhanced.NewInvalidError("%s holds and wants %d resources of %q together; one step changes %d at most",
		owner.Describe(), count, repository, enhanced.MaxSetSize)
}

// setTimeoutError says of a set what was said of its first request.
func (s lockSet) setTimeoutError(err error) error {
	var told *enhanced.LockError
	if len(s.asked) < 2 || !errors.As(err, &told) || told.Code != enhanced.ErrCodeTimeout {
		return err
	}
	of := *told
	of.Message = fmt.Sprintf("set of %d resources: %s", len(s.asked), told.Message)
	return &of
}

// setQueueFullError is the answer to a set that can't wait for one of its resources.
func setQueueFullError(resource enhanced.ResourceIdentifier, length, limit, size int) error {
	return &enhanced.LockError{
		Code: enhanced.ErrCodeQueueFull, Resource: resource,
		Message: fmt.Sprintf("the queue of %s has %d waiters, and max_queue_size is %d; a set of %d waits for all", resource, length, limit, size),
	}
}
