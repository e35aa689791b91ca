package enhanced

import (
	"errors"

	"github.com/runatlantis/atlantis/server/events/models"
)

// storeLocks has the enhanced store decide about locks. What its methods mean is
// said where [LockingAdapter] has them.
type storeLocks struct {
	adapter *LockingAdapter
	config  *EnhancedConfig
}

func (l storeLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	ctx, cancel := l.adapter.operationContext()
	defer cancel()
	request := l.request(newLock)
	request.Detached = true
	lock, acquired, err := l.adapter.manager.TryAcquire(ctx, request)
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	if !acquired {
		if err := mistakable(request, lock); err != nil {
			return false, models.ProjectLock{}, err
		}
	}
	return acquired, *lock.OriginalLock, nil
}

// request is stock's lock as a request that does not wait.
func (l storeLocks) request(lock models.ProjectLock) *EnhancedLockRequest {
	request := &EnhancedLockRequest{
		Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull,
		Timeout: NoTimeout, RequestedAt: lock.Time,
		// An empty project is a project to stock. Named here, it is one to us too.
		Resource: ProjectResource(lock.Project, lock.Workspace),
	}
	if l.config.LegacyLockTimeout > 0 {
		request.Timeout = l.config.LegacyLockTimeout
	}
	request.Priority, _ = l.config.PriorityFor(request.Resource, lock.User.Username)
	return request
}

func (l storeLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	if l.config.DenySystemUnlock {
		return nil, systemUnlockDenied()
	}
	ctx, cancel := l.adapter.operationContext()
	defer cancel()
	other, err := l.adapter.uncleanSplit(project, workspace)
	if err != nil {
		return nil, err
	}
	release := ReleaseRequest{Resource: ProjectResource(project, workspace), Force: true, Actor: SystemAtlantis}
	var lock *EnhancedLock
	if other == nil {
		lock, err = l.adapter.manager.Release(ctx, release)
		if errors.Is(err, ErrLockNotFound) {
			other, err = l.adapter.otherSplit(models.GenerateLockKey(project, workspace))
			if other == nil {
				return nil, err
			}
		}
	}
	if other != nil {
		release.Resource, release.LockID = other.Resource, other.ID
		lock, err = l.adapter.manager.Release(ctx, release)
		if errors.Is(err, ErrLockNotFound) {
			// Released by somebody else since it was found.
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return lock.OriginalLock, nil
}

func (l storeLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	ctx, cancel := l.adapter.operationContext()
	defer cancel()
	lock, err := l.adapter.manager.Release(ctx, ReleaseRequest{
		Resource:   ProjectResource(project, workspace),
		PullNumber: &pullNum,
		Reserve:    true,
	})
	var refusal *LockError
	if errors.As(err, &refusal) && (refusal.Code == ErrCodeLockNotFound || refusal.Code == ErrCodePermissionDenied && refusal.Holder != nil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return lock.OriginalLock, nil
}

func (l storeLocks) List() ([]models.ProjectLock, error) {
	ctx, cancel := l.adapter.operationContext()
	defer cancel()
	locks, err := l.adapter.repeat.listLocks(ctx, l.adapter.backend)
	if err != nil {
		return nil, err
	}
	return projectLocks(locks), nil
}

func (l storeLocks) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	ctx, cancel := l.adapter.operationContext()
	defer cancel()
	lock, err := l.adapter.uncleanSplit(project, workspace)
	if lock == nil && err == nil {
		lock, err = l.adapter.repeat.lookupLock(ctx, l.adapter.backend, ProjectResource(project, workspace))
		if errors.Is(err, ErrLockNotFound) {
			lock, err = l.adapter.otherSplit(models.GenerateLockKey(project, workspace))
		}
	}
	if lock == nil {
		return nil, err
	}
	return lock.OriginalLock, nil
}

func (l storeLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	if l.config.DenySystemUnlock {
		return nil, systemUnlockDenied()
	}
	ctx, cancel := l.adapter.operationContext()
	defer cancel()
	locks, err := l.adapter.manager.ReleaseByPull(ctx, repoFullName, pullNum, SystemAtlantis)
	return projectLocks(locks), err
}
