package enhanced

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

func (f *fallback) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	ctx, cancel := f.store.operationContext()
	defer cancel()
	none := models.ProjectLock{}
	config := f.store.state.Load().config
	request, err := NormalizeRequest(f.store.request(newLock), config.DefaultTimeout, config.MaxTimeout)
	if err != nil {
		return false, none, err
	}
	to, leave, err := f.enter(ctx)
	if err != nil {
		return false, none, err
	}
	defer leave()
	if to == routeStore {
		return f.store.TryLock(newLock)
	}
	end, err := f.turn(ctx, request.Resource.LegacyKey())
	if err != nil {
		return false, none, f.refused(err)
	}
	defer end()
	if to == routeLegacy {
		return f.tryLegacy(ctx, request, false)
	}
	var a attempt
	lock, acquired, err := f.tryBoth(ctx, request, &a)
	switch {
	case err == nil:
		return answerTryLock(request, lock, acquired)
	case errors.Is(err, errOpen):
		return f.tryLegacy(ctx, request, a.made)
	default:
		return false, none, err
	}
}

// attempt is how far a request has come.
type attempt struct {
	// made is set once the request has a record in the legacy database that was
	// not there before.
	made bool
	// other is who has it there, nil for nobody else.
	other *models.ProjectLock
}

// errOpen says that the store has failed, and the legacy database answers.
var errOpen = errors.New("the fallback is open")

// failed opens the fallback, if it may, because the store has failed a call that
// began at start. What it returns is the error to go on with.
func (f *fallback) failed(start time.Time, err error) error {
	switch {
	case !isStoreFailure(err):
		return err
	case f.open(start, err):
		return errOpen
	default:
		return f.refused(err)
	}
}

// tryBoth takes a lock in the legacy database first, then in the store, which
// decides. What the store refuses goes from the legacy database again.
func (f *fallback) tryBoth(ctx context.Context, request *EnhancedLockRequest, a *attempt) (*EnhancedLock, bool, error) {
	start, resource, owner := time.Now(), request.Resource, request.Owner()
	if err := f.settle(ctx, resource); err != nil {
		return nil, false, f.failed(start, err)
	}
	if err := f.tryLegacyRecord(ctx, request, a); err != nil {
		return nil, false, f.failed(start, err)
	}
	if other := a.other; other != nil && legacyResource(*other) != resource {
		// Stock's key is that of another resource, too: as in stock they exclude
		// each other, for the legacy database can hold one of them only.
		return &EnhancedLock{Resource: legacyResource(*other), Owner: legacyOwner(*other).String(), OriginalLock: other}, false, nil
	}
	lock, acquired, err := f.store.manager.TryAcquire(ctx, request)
	switch {
	case err == nil:
		// The holder's record takes the place of ours, and ours that of somebody
		// whose lock has ended meanwhile.
		if isTold := acquired || sameOwner(lock.Owner, owner); !isTold || a.other != nil {
			f.keep(lock)
		} else {
			f.trust(resource)
		}
		return lock, acquired, nil
	case isStoreFailure(err) && f.open(start, err):
		return nil, false, errOpen
	case a.made && errors.Is(err, ErrOutcomeUnknown):
		// The store may have granted it, so it stays here.
		f.doubt(resource, owner)
	case a.made:
		f.drop(resource)
	}
	return nil, false, f.refused(err)
}

// tryLegacyRecord writes the record of a lock that the store is about to be asked
// for, unless its owner has one. Where somebody else has one who holds nothing
// any more, that goes first.
func (f *fallback) tryLegacyRecord(ctx context.Context, request *EnhancedLockRequest, a *attempt) error {
	record := legacyRecord(request.Resource, request.Owner(), request.ProjectLock())
	wanted := &EnhancedLock{Resource: request.Resource, Owner: request.Owner().String()}
	for attempts := 1; ; attempts++ {
		made, holder, err := f.legacy.TryLock(record)
		switch {
		case err != nil:
			return legacyFailed(err)
		case made || isRecordOf(holder, wanted):
			a.made = made
			return nil
		case attempts == 2:
			a.other = &holder
			return nil
		}
		if err := f.follow(ctx, request.Resource); err != nil {
			return err
		}
	}
}

// tryLegacy is TryLock while the legacy database answers alone. What the owner
// has already, it is told again, and counts on from now on.
func (f *fallback) tryLegacy(ctx context.Context, request *EnhancedLockRequest, made bool) (bool, models.ProjectLock, error) {
	none := models.ProjectLock{}
	if err := f.authorize(ctx, acquireAuthorization(request)); err != nil {
		return false, none, err
	}
	resource, owner := request.Resource, request.Owner()
	if err := f.isKnown(resource); err != nil {
		return false, none, err
	}
	now, holder, err := f.legacy.TryLock(legacyRecord(resource, owner, request.ProjectLock()))
	if err != nil {
		return false, none, legacyFailed(err)
	}
	made = made || now
	if !made && (legacyResource(holder) != resource || !sameOwner(legacyOwner(holder).String(), owner)) {
		return answerTryLock(request, &EnhancedLock{Resource: resource, Owner: legacyOwner(holder).String(), OriginalLock: &holder}, false)
	}
	if err := f.journal.granted(resource, owner.String()); err != nil {
		if made {
			f.drop(resource)
		}
		return false, none, legacyFailed(err)
	}
	return made, holder, nil
}

// isKnown returns an error for a resource on which the legacy database may lack
// something, while it answers alone.
func (f *fallback) isKnown(resource ResourceIdentifier) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, behind := f.behind[resource.LegacyKey()]; !behind {
		return nil
	}
	return &LockError{
		Code: ErrCodeBackendError, Resource: resource, Err: f.reason,
		Message: fmt.Sprintf("the store has failed, and the fallback is closed for %s: the legacy database is not up to date on it", resource),
	}
}

func (f *fallback) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	return original(f.release(func(ctx context.Context) (*EnhancedLock, error) {
		lock, err := f.store.unlock(ctx, project, workspace)
		if err == nil {
			err = f.giveUp(ctx, ProjectResource(project, workspace))
		}
		return lock, err
	}, func(ctx context.Context) (*EnhancedLock, error) {
		if f.store.state.Load().config.DenySystemUnlock {
			return nil, systemUnlockDenied()
		}
		return f.releaseLegacy(ctx, project, workspace, func(found models.ProjectLock) (AuthorizationRequest, bool) {
			return releaseAuthorization(ReleaseRequest{Resource: legacyResource(found), Force: true, Actor: SystemAtlantis}), true
		})
	}))
}

func (f *fallback) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	return original(f.release(func(ctx context.Context) (*EnhancedLock, error) {
		return f.store.unlockIfOwnedByPull(ctx, project, workspace, pullNum)
	}, func(ctx context.Context) (*EnhancedLock, error) {
		return f.releaseLegacy(ctx, project, workspace, func(found models.ProjectLock) (AuthorizationRequest, bool) {
			owner := legacyOwner(found)
			return releaseAuthorization(ReleaseRequest{Resource: legacyResource(found), PullNumber: &pullNum}),
				owner.Kind == OwnerPull && owner.Number == pullNum && legacyResource(found) == ProjectResource(project, workspace)
		})
	}))
}

// release releases a lock in the store and then, what is left of it, in the
// legacy database; in the latter alone while that answers.
func (f *fallback) release(inStore, inLegacy func(context.Context) (*EnhancedLock, error)) (*EnhancedLock, error) {
	ctx, cancel := f.store.operationContext()
	defer cancel()
	to, leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if to == routeLegacy {
		return inLegacy(ctx)
	}
	start := time.Now()
	lock, err := inStore(ctx)
	if to == routeStore {
		return lock, err
	}
	if err != nil {
		if err = f.failed(start, err); errors.Is(err, errOpen) {
			return inLegacy(ctx)
		}
		return nil, err
	}
	if lock != nil {
		f.ended(ctx, lock.Resource)
	}
	return lock, nil
}

// ended follows the store after a release. What waits for the lock may have it
// now; in a queue it may also be kept for its last owner for a while, which the
// log tells, and until then it stays here.
func (f *fallback) ended(ctx context.Context, resource ResourceIdentifier) {
	if f.store.state.Load().config.queuesRepository(resource.Namespace) {
		return
	}
	f.refollow(ctx, resource, nil)
}

// releaseLegacy releases the lock under one of stock's keys while the legacy
// database answers alone. The condition says whether it may be released, and
// what has to be authorized.
func (f *fallback) releaseLegacy(ctx context.Context, project models.Project, workspace string, condition func(models.ProjectLock) (AuthorizationRequest, bool)) (*EnhancedLock, error) {
	end, err := f.turn(ctx, models.GenerateLockKey(project, workspace))
	if err != nil {
		return nil, f.refused(err)
	}
	defer end()
	found, err := f.legacy.GetLock(project, workspace)
	if err != nil {
		return nil, legacyFailed(err)
	}
	if found == nil {
		return nil, nil
	}
	needed, may := condition(*found)
	if !may {
		return nil, nil
	}
	resource, owner := legacyResource(*found), legacyOwner(*found).String()
	if err := errors.Join(f.isKnown(resource), f.authorize(ctx, needed)); err != nil {
		return nil, err
	}
	// Noted first: if this process ends between the two, the store releases it.
	if err := f.journal.released(resource, owner); err != nil {
		return nil, legacyFailed(err)
	}
	if _, err := f.legacy.Unlock(project, workspace); err != nil {
		return nil, legacyFailed(err)
	}
	return &EnhancedLock{Resource: resource, Owner: owner, State: LockStateReleased, OriginalLock: found}, nil
}

func (f *fallback) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	ctx, cancel := f.store.operationContext()
	defer cancel()
	to, leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if to == routeLegacy {
		return f.unlockByPullLegacy(ctx, repoFullName, pullNum)
	}
	start := time.Now()
	locks, err := f.store.unlockByPull(ctx, repoFullName, pullNum)
	if to == routeBoth {
		for _, lock := range locks {
			f.ended(ctx, lock.Resource)
		}
		if err != nil {
			if err = f.failed(start, err); errors.Is(err, errOpen) {
				return f.unlockByPullLegacy(ctx, repoFullName, pullNum)
			}
		}
	}
	return stockForm(locks), err
}

// unlockByPullLegacy is UnlockByPull while the legacy database answers alone.
// That database's own method also frees locks of repositories whose names begin
// alike, and those of every host.
func (f *fallback) unlockByPullLegacy(ctx context.Context, repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	if f.store.state.Load().config.DenySystemUnlock {
		return nil, systemUnlockDenied()
	}
	if err := f.authorize(ctx, releasePullAuthorization(repoFullName, pullNum, SystemAtlantis)); err != nil {
		return nil, err
	}
	all, err := f.legacy.List()
	if err != nil {
		return nil, legacyFailed(err)
	}
	var found []models.ProjectLock
	var owners []string
	for _, lock := range all {
		owner := legacyOwner(lock)
		if owner.Kind != OwnerPull || owner.Repository != repoFullName || owner.Number != pullNum {
			continue
		}
		if len(found) > 0 && legacyOwner(found[0]) != owner {
			owners = append(owners, owner.String())
		}
		found = append(found, lock)
	}
	if len(owners) > 0 {
		return nil, NewInvalidError("pull request %d of %q is that of several hosts: %s, %s; release their locks one by one",
			pullNum, repoFullName, legacyOwner(found[0]), strings.Join(owners, ", "))
	}
	var released []models.ProjectLock
	for _, lock := range found {
		gone, err := original(f.releaseLegacy(ctx, lock.Project, lock.Workspace, func(now models.ProjectLock) (AuthorizationRequest, bool) {
			owner := legacyOwner(now)
			return releasePullAuthorization(repoFullName, pullNum, SystemAtlantis), owner == legacyOwner(lock)
		}))
		if err != nil {
			return released, err
		}
		if gone != nil {
			released = append(released, *gone)
		}
	}
	return released, nil
}

func (f *fallback) List() ([]models.ProjectLock, error) {
	return read(f, f.store.List, f.legacy.List)
}

func (f *fallback) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	return read(f, func() (*models.ProjectLock, error) { return f.store.GetLock(project, workspace) },
		func() (*models.ProjectLock, error) { return f.legacy.GetLock(project, workspace) })
}

// read answers from the store or, while that fails, from the legacy database. It
// does not wait until both agree: it grants nothing.
func read[T any](f *fallback, fromStore, fromLegacy func() (T, error)) (T, error) {
	if !f.isAnsweringAlone() {
		start := time.Now()
		answer, err := fromStore()
		if err == nil {
			return answer, nil
		}
		if err = f.failed(start, err); !errors.Is(err, errOpen) {
			return answer, err
		}
	}
	answer, err := fromLegacy()
	if err != nil {
		return answer, legacyFailed(err)
	}
	return answer, nil
}

// authorize asks the manager's authorizer, which the store's path asks too.
func (f *fallback) authorize(ctx context.Context, request AuthorizationRequest) error {
	manager, ok := f.store.manager.(interface {
		authorize(ctx context.Context, request AuthorizationRequest) error
	})
	if !ok {
		return nil
	}
	return manager.authorize(ctx, request)
}
