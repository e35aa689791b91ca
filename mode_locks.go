package enhanced

import (
	"context"
	"errors"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// shadowTimeout bounds what is done in the store while it does not decide, so that
// it hardly slows Atlantis down.
const shadowTimeout = time.Second

// shadowPause is the longest pause before what differs is looked at again. All of
// them together take about twice as long.
const shadowPause = 100 * time.Millisecond

// memberLocks has the mode of the fleet say who decides.
type memberLocks struct{ member *member }

// inMode runs an operation by whom the fleet has decide, and keeps that until it
// has ended.
func inMode[T any](m *member, operation func(projectLocks) (T, error)) (T, error) {
	ctx, cancel := m.adapter.operationContext()
	defer cancel()
	fleet, leave, err := m.enter(ctx)
	if err != nil {
		var none T
		return none, err
	}
	defer leave()
	return operation(m.operations(fleet))
}

func (l memberLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	acquired := false
	lock, err := inMode(l.member, func(locks projectLocks) (lock models.ProjectLock, err error) {
		acquired, lock, err = locks.TryLock(newLock)
		return lock, err
	})
	return acquired, lock, err
}

func (l memberLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	return inMode(l.member, func(locks projectLocks) (*models.ProjectLock, error) { return locks.Unlock(project, workspace) })
}

func (l memberLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	return inMode(l.member, func(locks projectLocks) (*models.ProjectLock, error) {
		return locks.UnlockIfOwnedByPull(project, workspace, pullNum)
	})
}

func (l memberLocks) List() ([]models.ProjectLock, error) {
	return inMode(l.member, func(locks projectLocks) ([]models.ProjectLock, error) { return locks.List() })
}

func (l memberLocks) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	return inMode(l.member, func(locks projectLocks) (*models.ProjectLock, error) { return locks.GetLock(project, workspace) })
}

func (l memberLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	return inMode(l.member, func(locks projectLocks) ([]models.ProjectLock, error) {
		return locks.UnlockByPull(repoFullName, pullNum)
	})
}

// operations returns who decides in a fleet.
func (m *member) operations(fleet *Fleet) projectLocks {
	store := m.adapter.store
	needs := fleet.Deciders()
	switch {
	case !needs.Legacy:
		return store
	case fleet.Mode == ModeOff && !needs.Store:
		return m.adapter.legacy
	case needs.Store && m.inOneFile():
		return oneFileLocks{store}
	case needs.Store:
		return bothLocks{m, fleet.Mode, store}
	default:
		return shadowLocks{m, fleet.Mode, store}
	}
}

// take takes a lock in the store for whom the legacy database has granted it. Mine
// says that the pull request has it now, and fresh that it had not; if it is not
// mine, holder is who has.
func (s *storeLocks) take(ctx context.Context, lock models.ProjectLock, metadata map[string]string) (holder *EnhancedLock, mine, fresh bool, err error) {
	request := s.request(lock)
	request.Detached, request.Metadata = false, metadata
	holder, acquired, err := s.manager.TryAcquire(ctx, request)
	if err != nil || acquired {
		return holder, acquired, acquired, err
	}
	return holder, request.Owner().SamePull(ownerOf(holder)), false, nil
}

// takeFor takes a lock in the store for whom the legacy database says has it. When it
// has just granted it, the store can have a copy of the pull request's lock before, which
// who has made it may be about to take back: so this lock is to be another one.
func (m *member) takeFor(ctx context.Context, lock models.ProjectLock, granted bool) (holder *EnhancedLock, mine, fresh bool, err error) {
	for {
		holder, mine, fresh, err = m.adapter.store.take(ctx, lock, nil)
		if err != nil || !mine || fresh || !granted || holder.Metadata[copiedKey] == "" {
			return holder, mine, fresh, err
		}
		if err := m.releaseStale(ctx, holder); err != nil {
			return nil, false, false, err
		}
	}
}

// ownerOf returns a lock's owner, the zero value where it can't be read.
func ownerOf(lock *EnhancedLock) Owner {
	owner, _ := ParseOwner(lock.Owner)
	return owner
}

// shadowLocks has the legacy database decide. The store is told, and what it says
// is compared. Another adapter may have told the legacy database something and not
// yet the store: so what differs is looked at again for a moment.
type shadowLocks struct {
	member *member
	mode   Mode
	store  *storeLocks
}

// compared calls compare until both databases say the same, at most for a moment.
// The context is for the store.
func (l shadowLocks) compared(operation string, resource ResourceIdentifier, compare func(ctx context.Context) (legacy, store string)) {
	ctx, cancel := context.WithTimeout(context.Background(), shadowTimeout)
	defer cancel()
	var legacy, store string
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		legacy, store = compare(ctx)
		if legacy == store {
			return
		}
		if pause > shadowPause {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	l.member.differs(operation, resource.String(), legacy, store)
}

func (l shadowLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	resource := ProjectResource(newLock.Project, newLock.Workspace)
	defer l.member.alone(resource)()
	gathered := l.member.gather()
	defer gathered.end()
	granted, held, err := l.member.legacy().TryLock(newLock)
	if err != nil {
		return granted, held, err
	}
	if !granted && held.Pull.Num != newLock.Pull.Num {
		// It must not be taken there either.
		gathered.end()
		l.compareHolder("lock", resource, &held)
		return granted, held, nil
	}
	gathered.wait()
	l.compared("lock", resource, func(ctx context.Context) (legacy, store string) {
		holder, mine, _, err := l.member.takeFor(ctx, newLock, granted)
		if err == nil && mine {
			return "", ""
		}
		return heldBy(&newLock), storeSays(holder, err)
	})
	return granted, held, nil
}

// askAgain is how often only the store is looked at, before the legacy database is asked
// again, too: that has those who write to stock's file wait for a moment.
const askAgain = 2

// compareHolder compares what the legacy database has said of a resource with what
// the store says. Who has held it may be gone before the store is looked at.
func (l shadowLocks) compareHolder(operation string, resource ResourceIdentifier, held *models.ProjectLock) {
	looks := 0
	l.compared(operation, resource, func(ctx context.Context) (legacy, store string) {
		if looks++; looks > askAgain || l.member.inOneFile() {
			if now, err := l.member.legacy().GetLock(resource.Project(), resource.Workspace); err == nil {
				held = now
			}
		}
		return heldBy(held), storeSays(l.store.repeat.lookupLock(ctx, l.member.adapter.backend, resource))
	})
}

// storeSays describes what the store answers about a lock, for people.
func storeSays(lock *EnhancedLock, err error) string {
	switch {
	case errors.Is(err, ErrLockNotFound):
		return nobody
	case err != nil:
		return err.Error()
	}
	if owner := ownerOf(lock); owner.Kind == OwnerPull {
		return heldBy(lock.OriginalLock)
	}
	return describeHolder(lock) + " holds it"
}

func (l shadowLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	defer l.member.alone(ProjectResource(project, workspace))()
	gathered := l.member.gather()
	defer gathered.end()
	lock, err := l.member.legacy().Unlock(project, workspace)
	if lock != nil {
		gathered.wait()
		l.release(*lock)
	}
	return lock, err
}

func (l shadowLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	defer l.member.alone(ProjectResource(project, workspace))()
	gathered := l.member.gather()
	defer gathered.end()
	lock, err := l.member.legacy().UnlockIfOwnedByPull(project, workspace, pullNum)
	if lock != nil {
		gathered.wait()
		l.release(*lock)
	}
	return lock, err
}

func (l shadowLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	locks, err := l.member.legacy().UnlockByPull(repoFullName, pullNum)
	for _, lock := range locks {
		l.release(lock)
	}
	return locks, err
}

// release releases a lock in the store that the legacy database has released. A
// store in which the pull request holds none now is right: the next one may have it.
func (l shadowLocks) release(lock models.ProjectLock) {
	resource := ProjectResource(lock.Project, lock.Workspace)
	l.compared("unlock", resource, func(ctx context.Context) (legacy, store string) {
		_, err := l.member.adapter.manager.Release(ctx, ReleaseRequest{
			Resource: resource, PullNumber: &lock.Pull.Num, Actor: SystemAtlantis,
		})
		if err == nil || isNotHeld(err) {
			return "", ""
		}
		return heldBy(nil), storeSays(nil, err)
	})
}

func (l shadowLocks) List() ([]models.ProjectLock, error) {
	locks, err := l.member.legacy().List()
	if err != nil || l.mode != ModeRead {
		return locks, err
	}
	stored, storeErr := l.store.List()
	if storeErr != nil {
		l.member.differs("list", "all locks", "what it holds", storeErr.Error())
		return locks, nil
	}
	held := make(map[ResourceIdentifier]*models.ProjectLock)
	for i, lock := range locks {
		held[ProjectResource(lock.Project, lock.Workspace)] = &locks[i]
	}
	for _, lock := range stored {
		resource := ProjectResource(lock.Project, lock.Workspace)
		if heldBy(held[resource]) != heldBy(&lock) {
			l.compareHolder("list", resource, held[resource])
		}
		delete(held, resource)
	}
	for resource, lock := range held {
		l.compareHolder("list", resource, lock)
	}
	return stored, nil
}

func (l shadowLocks) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	lock, err := l.member.legacy().GetLock(project, workspace)
	if err != nil || l.mode != ModeRead {
		return lock, err
	}
	stored, storeErr := l.store.GetLock(project, workspace)
	if storeErr != nil || heldBy(lock) != heldBy(stored) {
		l.compareHolder("read", ProjectResource(project, workspace), lock)
	}
	if storeErr != nil {
		return lock, nil
	}
	return stored, nil
}
