package enhanced

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// LockAll locks the resources of all requests for their one owner, or none. It
// returns the locks in the order of the requests; of several requests for one
// resource the first one counts. A resource that is held, by the owner itself,
// too, answers LOCK_EXISTS naming each that is held and by whom: use ReplaceLocks
// to keep what the owner holds.
//
// The resources of one repository, at most [MaxSetSize], are locked in one step.
// With the queue enabled, and where it is used for all of them, the set waits for
// what others hold; it holds nothing meanwhile, and is granted in one step. Other
// requests may pass it until it has waited for SetReserveAfter; from then on what
// is free of it is kept for it. With DeadlockPrevention one that would close a cycle
// of waits answers DEADLOCK.
//
// Several repositories are locked one after the other, in the order of their
// names. When one is refused, what was taken before is released; where that fails,
// the error is [ErrOutcomeUnknown], too. A request ID of such a set has been used:
// give a new one to ask again.
//
// Besides, the errors are those of Acquire, INVALID_REQUEST for what
// [NormalizeSet] refuses, for no request at all, and for a backend that is no
// [SetLocker].
func (m *EnhancedLockManager) LockAll(ctx context.Context, requests []*EnhancedLockRequest) ([]*EnhancedLock, error) {
	return m.lockAll(ctx, requests, true)
}

// LockAllNow is LockAll for callers that can't wait.
func (m *EnhancedLockManager) LockAllNow(ctx context.Context, requests []*EnhancedLockRequest) ([]*EnhancedLock, error) {
	return m.lockAll(ctx, requests, false)
}

func (m *EnhancedLockManager) lockAll(ctx context.Context, requests []*EnhancedLockRequest, wait bool) ([]*EnhancedLock, error) {
	locker, set, err := m.prepareSet(ctx, requests)
	if err != nil {
		return nil, err
	}
	if len(set) == 0 {
		return nil, NewInvalidError("the set has no requests; give at least one")
	}
	parts := make(map[string][]*EnhancedLockRequest)
	config := m.state.Load().config
	for _, r := range set {
		if err := m.authorize(ctx, acquireAuthorization(r)); err != nil {
			return nil, err
		}
		parts[r.Resource.Namespace] = append(parts[r.Resource.Namespace], r)
		wait = wait && config.QueuesFor(r.Resource, r.User.Username)
	}
	retryable := mayPass
	if config.RetryLockExists && !wait {
		retryable = mayPassOrBeFreed(set[0])
	}
	taken := make(map[ResourceIdentifier]*EnhancedLock, len(set))
	heard := make(map[string]*heardGrants, len(parts))
	for _, repository := range slices.Sorted(maps.Keys(parts)) {
		hearing, how := m.hearGrant(ctx)
		locks, err := repeated(hearing, &m.repeat, retryable, askedAnew(m.renewal(requests, parts[repository]), func(ctx context.Context) ([]*EnhancedLock, error) {
			return locker.AcquireAll(ctx, parts[repository], wait)
		}))
		if err != nil {
			err = m.giveBack(ctx, slices.Collect(maps.Values(taken)), err)
			for _, r := range set {
				m.publishAcquire(r, nil, nil, false, err)
			}
			return nil, err
		}
		heard[repository] = how
		for _, lock := range locks {
			taken[lock.Resource] = lock
		}
	}
	locks := make([]*EnhancedLock, len(set))
	for i, r := range set {
		locks[i] = taken[r.Resource]
		m.publishAcquire(r, locks[i], heard[r.Resource.Namespace], true, nil)
	}
	return locks, nil
}

// renewal gives the requests of a set new IDs; it is nil where one that was asked for
// had its own. An attempt whose outcome is unknown can have got the set, of which a part
// has ended since. Nobody was told of the rest, which would be in the way of the next
// attempt: so that is released first.
func (m *EnhancedLockManager) renewal(asked, set []*EnhancedLockRequest) func(context.Context) error {
	if slices.ContainsFunc(asked, func(r *EnhancedLockRequest) bool { return r.ID != "" }) {
		return nil
	}
	return func(ctx context.Context) error {
		if err := m.giveBackRest(ctx, set); err != nil {
			return err
		}
		for _, r := range set {
			if err := r.renewID(); err != nil {
				return err
			}
		}
		return nil
	}
}

// giveBackRest releases what the requests of a set have got and still have. It is not
// repeated: who repeats the call does that.
func (m *EnhancedLockManager) giveBackRest(ctx context.Context, set []*EnhancedLockRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.state.Load().config.OperationTimeout)
	defer cancel()
	for _, r := range set {
		// The store answers with what the request has got, and a request whose lock has
		// ended gets none.
		lock, acquired, err := m.backend.TryAcquireLock(ctx, r)
		if err == nil && acquired {
			_, err = m.backend.Release(ctx, ReleaseRequest{LockID: lock.ID, Owner: lock.Owner, Reason: "another lock of its set has ended"})
		}
		if errors.Is(err, ErrBackend) || errors.Is(err, ErrTimeout) {
			return NewBackendError("giving back what is left of a set", errors.Join(ErrOutcomeUnknown, err))
		}
	}
	return nil
}

// prepareSet returns what takes a set, and the set as it is to be taken.
func (m *EnhancedLockManager) prepareSet(ctx context.Context, requests []*EnhancedLockRequest) (SetLocker, []*EnhancedLockRequest, error) {
	config, err := m.ready(ctx)
	if err != nil {
		return nil, nil, err
	}
	locker, ok := m.backend.(SetLocker)
	if !ok {
		return nil, nil, NewInvalidError("the backend %T can't lock sets", m.backend)
	}
	set, err := NormalizeSet(requests, m.defaultLease(config), config.MaxTimeout)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range set {
		if err := r.validateStrict(); err != nil {
			return nil, nil, err
		}
	}
	return locker, set, nil
}

// giveBack releases what was taken of a set whose other part was refused, and
// returns why that was.
func (m *EnhancedLockManager) giveBack(ctx context.Context, locks []*EnhancedLock, refusal error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.state.Load().config.OperationTimeout)
	defer cancel()
	for i, lock := range locks {
		err := m.repeat.do(ctx, mayPass, func(ctx context.Context) error {
			_, err := m.backend.Release(ctx, ReleaseRequest{LockID: lock.ID, Owner: lock.Owner, Reason: "the rest of its set was refused"})
			if errors.Is(err, ErrLockNotFound) || errors.Is(err, ErrLockExpired) {
				return nil // it has ended already
			}
			return err
		})
		if err != nil {
			told := &LockError{Code: ErrCodeBackendError, Resource: lock.Resource, Err: errors.Join(ErrOutcomeUnknown, refusal, err)}
			told.Message = fmt.Sprintf("a set was refused, and up to %d locks of it that were taken before are not released, that on %s for one", len(locks)-i, lock.Resource)
			return told
		}
	}
	return refusal
}

// ReplaceLocks makes the wanted locks all that an owner holds in their repository,
// in one step: it keeps those that it holds, as they are, takes those that it does
// not, and then frees the rest for those who wait. Nobody else can have a lock
// that stays wanted, at no time. When one is held by another, nothing changes and
// the answer is LOCK_EXISTS, naming each; it never waits. Doing it twice is the same
// as once, but for what the second answer has freed; after the pull request was closed,
// too, which is refused what it would take only.
//
// All wanted are of one repository. Without any, all locks of a pull request are
// freed; a user's are not, since no repository is named. At most [MaxSetSize]
// resources can be held and wanted together.
//
// Besides, the errors are those of LockAll. The Authorizer is asked about each
// lock that is wanted, and about each that is to be freed.
func (m *EnhancedLockManager) ReplaceLocks(ctx context.Context, owner Owner, wanted []*EnhancedLockRequest) (*ReplacedLocks, error) {
	locker, set, err := m.prepareSet(ctx, wanted)
	if err != nil {
		return nil, err
	}
	repository, err := ReplacedRepository(owner, set)
	if err != nil {
		return nil, err
	}
	for _, r := range set {
		if err := m.authorize(ctx, acquireAuthorization(r)); err != nil {
			return nil, err
		}
	}
	if err := m.authorizeFreed(ctx, repository, owner, set); err != nil {
		return nil, err
	}
	hearing, heard := m.hearGrant(ctx)
	replaced, err := repeated(hearing, &m.repeat, mayPass, func(ctx context.Context) (*ReplacedLocks, error) {
		return locker.ReplaceAll(ctx, repository, owner, set)
	})
	if err != nil {
		for _, r := range set {
			m.publishAcquire(r, nil, nil, false, err)
		}
		return nil, err
	}
	for _, lock := range replaced.Taken {
		at := slices.IndexFunc(set, func(r *EnhancedLockRequest) bool { return r.Resource == lock.Resource })
		m.publishAcquire(set[at], lock, heard, true, nil)
	}
	for _, lock := range replaced.Freed {
		m.publishRelease(lock, ReleaseRequest{})
	}
	return replaced, nil
}

// ReplacedRepository checks an owner and the set that is to be all that it holds,
// and returns the repository.
func ReplacedRepository(owner Owner, set []*EnhancedLockRequest) (string, error) {
	if owner.Kind != OwnerPull && owner.Kind != OwnerUser {
		return "", NewInvalidError("owner %q is no pull request and no user", owner)
	}
	if len(set) == 0 && owner.Kind != OwnerPull {
		return "", NewInvalidError("nothing is wanted for %s, so the repository is unknown; release its locks one by one", owner)
	}
	repository := owner.Repository
	for i, r := range set {
		switch {
		case r.Owner() != owner:
			return "", NewInvalidError("%s is wanted by %s, and the locks of %s are to be replaced; they have one owner", r.Resource, r.Owner(), owner)
		case i > 0 && r.Resource.Namespace != repository:
			return "", NewInvalidError("%s is wanted and %s, which are of different repositories; replace the locks of one at a time", set[0].Resource, r.Resource)
		}
		repository = r.Resource.Namespace
	}
	return repository, nil
}

// authorizeFreed asks about the locks that are not wanted any more. Without an
// Authorizer nothing is read.
func (m *EnhancedLockManager) authorizeFreed(ctx context.Context, repository string, owner Owner, set []*EnhancedLockRequest) error {
	if m.options.authorize == nil {
		return nil
	}
	stays := make(map[ResourceIdentifier]bool, len(set))
	for _, r := range set {
		stays[r.Resource] = true
	}
	locks, err := m.repeat.listLocks(ctx, m.backend)
	if err != nil {
		return err
	}
	for _, lock := range locks {
		if lock.Resource.Namespace != repository || lock.Owner != owner.String() || stays[lock.Resource] {
			continue
		}
		if err := m.authorize(ctx, releaseAuthorization(ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})); err != nil {
			return err
		}
	}
	return nil
}
