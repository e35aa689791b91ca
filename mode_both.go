package enhanced

import (
	"context"
	"errors"
	"slices"

	"github.com/runatlantis/atlantis/server/events/models"
)

// bothLocks needs the grants of both databases: the legacy database's comes first
// and goes last, so that whoever asks that one alone is kept out, too.
//
// Meanwhile adapters copy locks from one database to the other, see reconcile, and a
// lock may be released between the look at one and the copy in the other. So each
// writes in one, and then looks at the other: whoever is second sees the first one.
type bothLocks struct {
	member *member
	mode   Mode
	store  *storeLocks
}

func (l bothLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	legacy := l.member.adapter.legacy
	gathered := l.member.gather()
	defer gathered.end()
	granted, held, err := legacy.TryLock(newLock)
	if err != nil || !granted && held.Pull.Num != newLock.Pull.Num {
		return false, held, err
	}
	gathered.wait()
	ctx, cancel := l.member.adapter.operationContext()
	defer cancel()
	holder, mine, fresh, err := l.member.takeFor(ctx, newLock, granted)
	if err == nil && mine && (granted || !fresh) {
		return granted, SanitizeProjectLock(held), nil
	}
	if err == nil && mine {
		return l.confirm(ctx, newLock, held, holder)
	}
	if granted {
		// If that fails it stays locked for this pull request, which can ask again.
		_, undo := l.released(nil)(legacy.UnlockIfOwnedByPull(newLock.Project, newLock.Workspace, newLock.Pull.Num))
		err = errors.Join(err, undo)
	}
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	return answerTryLock(l.store.request(newLock), holder, false)
}

// confirm asks the legacy database again for a lock that it alone had for the pull
// request: that may have been a copy, or about to be released.
func (l bothLocks) confirm(ctx context.Context, newLock, held models.ProjectLock, lock *EnhancedLock) (bool, models.ProjectLock, error) {
	granted, holder, err := l.member.adapter.legacy.TryLock(newLock)
	if err == nil && (granted || holder.Pull.Num == newLock.Pull.Num) {
		return granted, SanitizeProjectLock(held), nil
	}
	return false, holder, errors.Join(err, l.member.releaseExactly(ctx, lock, "the legacy database has granted it to somebody else"))
}

// Unlock leaves what the legacy database has granted to somebody else meanwhile.
func (l bothLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	l.member.gather().wait()
	lock, err := l.store.Unlock(project, workspace)
	if err != nil {
		return nil, err
	}
	legacy := l.member.adapter.legacy
	if lock == nil {
		return l.released(nil)(legacy.Unlock(project, workspace))
	}
	return l.released(lock)(legacy.UnlockIfOwnedByPull(project, workspace, lock.Pull.Num))
}

func (l bothLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	l.member.gather().wait()
	lock, err := l.store.UnlockIfOwnedByPull(project, workspace, pullNum)
	if err != nil {
		return nil, err
	}
	return l.released(lock)(l.member.adapter.legacy.UnlockIfOwnedByPull(project, workspace, pullNum))
}

// released returns the lock that the store has released, else the legacy
// database's.
func (l bothLocks) released(lock *models.ProjectLock) func(*models.ProjectLock, error) (*models.ProjectLock, error) {
	return func(other *models.ProjectLock, err error) (*models.ProjectLock, error) {
		if err != nil || other == nil {
			return lock, err
		}
		err = l.member.afterRelease(*other)
		if lock != nil {
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
		err = errors.Join(err, l.member.afterRelease(other))
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
