package enhanced

import (
	"context"
	"errors"
	"slices"
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
	case needs.Store:
		return bothLocks{m, fleet.Mode, store}
	default:
		return shadowLocks{m, fleet.Mode, store}
	}
}

// take takes a lock in the store for whom the legacy database has granted it. Mine
// says that the pull request has it now, or had it already; if not, holder is who
// has.
func (s *storeLocks) take(ctx context.Context, lock models.ProjectLock) (holder *EnhancedLock, mine bool, err error) {
	request := s.request(lock)
	request.Detached = false
	holder, acquired, err := s.manager.TryAcquire(ctx, request)
	if err != nil || acquired {
		return holder, acquired, err
	}
	return holder, request.Owner().SamePull(ownerOf(holder)), nil
}

// ownerOf returns a lock's owner, the zero value where it can't be read.
func ownerOf(lock *EnhancedLock) Owner {
	owner, _ := ParseOwner(lock.Owner)
	return owner
}

// bothLocks needs the grants of both databases: the legacy database's comes first
// and goes last, so that whoever asks that one alone is kept out, too.
type bothLocks struct {
	member *member
	mode   Mode
	store  *storeLocks
}

func (l bothLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	legacy := l.member.adapter.legacy
	granted, held, err := legacy.TryLock(newLock)
	if err != nil || !granted && held.Pull.Num != newLock.Pull.Num {
		return false, held, err
	}
	ctx, cancel := l.member.adapter.operationContext()
	defer cancel()
	holder, mine, err := l.store.take(ctx, newLock)
	if err == nil && mine {
		return granted, SanitizeProjectLock(held), nil
	}
	if granted {
		if _, undo := legacy.UnlockIfOwnedByPull(newLock.Project, newLock.Workspace, newLock.Pull.Num); undo != nil {
			// It stays locked for this pull request, which can ask again.
			err = errors.Join(err, undo)
		}
	}
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	if err := mistakable(l.store.request(newLock), holder); err != nil {
		return false, models.ProjectLock{}, err
	}
	return false, *holder.OriginalLock, nil
}

func (l bothLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	lock, err := l.store.Unlock(project, workspace)
	if err != nil {
		return nil, err
	}
	return firstLock(lock)(l.member.adapter.legacy.Unlock(project, workspace))
}

func (l bothLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	lock, err := l.store.UnlockIfOwnedByPull(project, workspace, pullNum)
	if err != nil {
		return nil, err
	}
	return firstLock(lock)(l.member.adapter.legacy.UnlockIfOwnedByPull(project, workspace, pullNum))
}

// firstLock returns the lock that the store has released, else the legacy
// database's.
func firstLock(lock *models.ProjectLock) func(*models.ProjectLock, error) (*models.ProjectLock, error) {
	return func(other *models.ProjectLock, err error) (*models.ProjectLock, error) {
		if lock != nil || other == nil {
			return lock, err
		}
		clean := SanitizeProjectLock(*other)
		return &clean, err
	}
}

func (l bothLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	locks, err := l.store.UnlockByPull(repoFullName, pullNum)
	if err != nil {
		return locks, err
	}
	others, err := l.member.adapter.legacy.UnlockByPull(repoFullName, pullNum)
	known := keysOf(locks)
	for _, other := range others {
		if _, found := slices.BinarySearch(known, keysOf([]models.ProjectLock{other})[0]); !found {
			locks = append(locks, SanitizeProjectLock(other))
		}
	}
	return locks, err
}

func (l bothLocks) List() ([]models.ProjectLock, error) {
	if l.readsStore() {
		return l.store.List()
	}
	return l.member.adapter.legacy.List()
}

func (l bothLocks) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	if l.readsStore() {
		return l.store.GetLock(project, workspace)
	}
	return l.member.adapter.legacy.GetLock(project, workspace)
}

func (l bothLocks) readsStore() bool { return l.mode == ModeRead || l.mode == ModeFull }

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
	granted, held, err := l.member.adapter.legacy.TryLock(newLock)
	if err != nil {
		return granted, held, err
	}
	if !granted && held.Pull.Num != newLock.Pull.Num {
		// It must not be taken there either.
		l.compareHolder("lock", resource, &held)
		return granted, held, nil
	}
	l.compared("lock", resource, func(ctx context.Context) (legacy, store string) {
		holder, mine, err := l.store.take(ctx, newLock)
		if err == nil && mine {
			return "", ""
		}
		return heldBy(&newLock), storeSays(holder, err)
	})
	return granted, held, nil
}

// compareHolder compares what the legacy database has said of a resource with what
// the store says. The legacy database is not asked again: stock's on bbolt reads a
// value after the transaction that it is of has ended, which can crash the process
// when somebody writes meanwhile.
func (l shadowLocks) compareHolder(operation string, resource ResourceIdentifier, held *models.ProjectLock) {
	l.compared(operation, resource, func(ctx context.Context) (legacy, store string) {
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
	lock, err := l.member.adapter.legacy.Unlock(project, workspace)
	if lock != nil {
		l.release(*lock)
	}
	return lock, err
}

func (l shadowLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	defer l.member.alone(ProjectResource(project, workspace))()
	lock, err := l.member.adapter.legacy.UnlockIfOwnedByPull(project, workspace, pullNum)
	if lock != nil {
		l.release(*lock)
	}
	return lock, err
}

func (l shadowLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	locks, err := l.member.adapter.legacy.UnlockByPull(repoFullName, pullNum)
	for _, lock := range locks {
		l.release(lock)
	}
	return locks, err
}

// release releases a lock in the store that the legacy database has released. A
// store that holds none now is right.
func (l shadowLocks) release(lock models.ProjectLock) {
	resource := ProjectResource(lock.Project, lock.Workspace)
	l.compared("unlock", resource, func(ctx context.Context) (legacy, store string) {
		_, err := l.member.adapter.manager.Release(ctx, ReleaseRequest{
			Resource: resource, PullNumber: &lock.Pull.Num, Actor: SystemAtlantis,
		})
		if err == nil || errors.Is(err, ErrLockNotFound) {
			return "", ""
		}
		return heldBy(nil), storeSays(nil, err)
	})
}

func (l shadowLocks) List() ([]models.ProjectLock, error) {
	locks, err := l.member.adapter.legacy.List()
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
	lock, err := l.member.adapter.legacy.GetLock(project, workspace)
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
