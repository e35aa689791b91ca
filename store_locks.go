package enhanced

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/deadline"
	"github.com/runatlantis/atlantis/server/events/models"
)

// projectLocks is the part of db.Database that decides who holds a project. The
// adapter sends a call to one of them: the legacy database, the enhanced store,
// or the two together, see [fallback].
type projectLocks interface {
	TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error)
	Unlock(project models.Project, workspace string) (*models.ProjectLock, error)
	UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error)
	List() ([]models.ProjectLock, error)
	GetLock(project models.Project, workspace string) (*models.ProjectLock, error)
	UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error)
}

// storeLocks serves projectLocks from the enhanced store. Its methods in lower
// case are those of projectLocks for a caller that has a context.
type storeLocks struct {
	manager LockManager
	backend Backend
	state   *atomic.Pointer[configState]
	repeat  repeater
}

var _ projectLocks = (*storeLocks)(nil)

// operationContext bounds what Atlantis calls without a context.
func (s *storeLocks) operationContext() (context.Context, context.CancelFunc) {
	ctx := deadline.In(s.state.Load().config.OperationTimeout)
	return ctx, ctx.End
}

func (s *storeLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	ctx, cancel := s.operationContext()
	defer cancel()
	request := s.request(newLock)
	lock, acquired, err := s.manager.TryAcquire(ctx, request)
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	return answerTryLock(request, lock, acquired)
}

// request is what stock's newLock asks for.
func (s *storeLocks) request(newLock models.ProjectLock) *EnhancedLockRequest {
	config := s.state.Load().config
	request := &EnhancedLockRequest{
		Project:     newLock.Project,
		Workspace:   newLock.Workspace,
		User:        newLock.User,
		Pull:        &newLock.Pull,
		Timeout:     NoTimeout,
		RequestedAt: newLock.Time,
		Detached:    true,
	}
	if config.LegacyLockTimeout > 0 {
		request.Timeout = config.LegacyLockTimeout
	}
	// An empty project is a project to stock. Named here, it is one to us too.
	request.Resource = ProjectResource(newLock.Project, newLock.Workspace)
	request.Priority, _ = config.PriorityFor(request.Resource, newLock.User.Username)
	return request
}

// answerTryLock is stock's form of the answer to a request.
func answerTryLock(request *EnhancedLockRequest, lock *EnhancedLock, acquired bool) (bool, models.ProjectLock, error) {
	if !acquired {
		if err := mistakable(request, lock); err != nil {
			return false, models.ProjectLock{}, err
		}
	}
	return acquired, *lock.OriginalLock, nil
}

// mistakable refuses to return a holder that Atlantis, which compares pull
// numbers only, would take for the caller.
func mistakable(request *EnhancedLockRequest, holder *EnhancedLock) error {
	owner, err := ParseOwner(holder.Owner)
	if err != nil {
		return err
	}
	caller := request.Owner()
	if caller.SamePull(owner) {
		return nil
	}
	if owner.Kind == OwnerPull && owner.Number != caller.Number {
		return nil
	}
	return NewHeldError(request.Resource, holder)
}

func (s *storeLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	ctx, cancel := s.operationContext()
	defer cancel()
	return original(s.unlock(ctx, project, workspace))
}

// original is stock's form of a lock, nil for none.
func original(lock *EnhancedLock, err error) (*models.ProjectLock, error) {
	if lock == nil || err != nil {
		return nil, err
	}
	return lock.OriginalLock, nil
}

func (s *storeLocks) unlock(ctx context.Context, project models.Project, workspace string) (*EnhancedLock, error) {
	if s.state.Load().config.DenySystemUnlock {
		return nil, systemUnlockDenied()
	}
	other, err := s.uncleanSplit(ctx, project, workspace)
	if err != nil {
		return nil, err
	}
	release := ReleaseRequest{Resource: ProjectResource(project, workspace), Force: true, Actor: SystemAtlantis}
	var lock *EnhancedLock
	if other == nil {
		lock, err = s.manager.Release(ctx, release)
		if errors.Is(err, ErrLockNotFound) {
			other, err = s.otherSplit(ctx, models.GenerateLockKey(project, workspace))
			if other == nil {
				return nil, err
			}
		}
	}
	if other != nil {
		release.Resource, release.LockID = other.Resource, other.ID
		lock, err = s.manager.Release(ctx, release)
		if errors.Is(err, ErrLockNotFound) {
			// Released by somebody else since it was found.
			return nil, nil
		}
	}
	return lock, err
}

// uncleanSplit returns the held lock with the key of a project whose path is
// not clean, nil if there is none. Such a path comes from a key that was cut in
// a workspace's name: cleaned, it could be another project's.
func (s *storeLocks) uncleanSplit(ctx context.Context, project models.Project, workspace string) (*EnhancedLock, error) {
	if ProjectResource(project, workspace).Path == project.Path {
		return nil, nil
	}
	return s.otherSplit(ctx, models.GenerateLockKey(project, workspace))
}

// otherSplit returns the one held lock with stock's key, nil if there is none.
func (s *storeLocks) otherSplit(ctx context.Context, key string) (*EnhancedLock, error) {
	locks, err := s.repeat.locksByLegacyKey(ctx, s.backend, key)
	if err != nil || len(locks) == 0 {
		return nil, err
	}
	if len(locks) > 1 {
		names := make([]string, len(locks))
		for i, lock := range locks {
			names[i] = lock.Resource.String()
		}
		return nil, NewInvalidError("key %q means several locked projects: %s; release them by lock ID", key, strings.Join(names, ", "))
	}
	return locks[0], nil
}

func (s *storeLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	ctx, cancel := s.operationContext()
	defer cancel()
	return original(s.unlockIfOwnedByPull(ctx, project, workspace, pullNum))
}

func (s *storeLocks) unlockIfOwnedByPull(ctx context.Context, project models.Project, workspace string, pullNum int) (*EnhancedLock, error) {
	lock, err := s.manager.Release(ctx, ReleaseRequest{
		Resource:   ProjectResource(project, workspace),
		PullNumber: &pullNum,
		Reserve:    true,
	})
	if isNotHeld(err) {
		return nil, nil
	}
	return lock, err
}

// isNotHeld says that a release was refused since its pull request does not hold the lock.
func isNotHeld(err error) bool {
	var refusal *LockError
	return errors.As(err, &refusal) && (refusal.Code == ErrCodeLockNotFound || refusal.Code == ErrCodePermissionDenied && refusal.Holder != nil)
}

func (s *storeLocks) List() ([]models.ProjectLock, error) {
	ctx, cancel := s.operationContext()
	defer cancel()
	locks, err := s.repeat.listLocks(ctx, s.backend)
	if err != nil {
		return nil, err
	}
	return stockForm(locks), nil
}

// stockForm returns stock's form of the locks on projects, in the order of
// stock's keys.
func stockForm(locks []*EnhancedLock) []models.ProjectLock {
	type keyed struct {
		key  string
		lock models.ProjectLock
	}
	var sorted []keyed
	for _, lock := range locks {
		if lock.Resource.Type == ResourceTypeProject {
			sorted = append(sorted, keyed{lock.Resource.LegacyKey(), *lock.OriginalLock})
		}
	}
	slices.SortFunc(sorted, func(x, y keyed) int { return strings.Compare(x.key, y.key) })
	var result []models.ProjectLock
	for _, k := range sorted {
		result = append(result, k.lock)
	}
	return result
}

func (s *storeLocks) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	ctx, cancel := s.operationContext()
	defer cancel()
	lock, err := s.uncleanSplit(ctx, project, workspace)
	if lock == nil && err == nil {
		lock, err = s.repeat.lookupLock(ctx, s.backend, ProjectResource(project, workspace))
		if errors.Is(err, ErrLockNotFound) {
			lock, err = s.otherSplit(ctx, models.GenerateLockKey(project, workspace))
		}
	}
	return original(lock, err)
}

func (s *storeLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	ctx, cancel := s.operationContext()
	defer cancel()
	locks, err := s.unlockByPull(ctx, repoFullName, pullNum)
	return stockForm(locks), err
}

func (s *storeLocks) unlockByPull(ctx context.Context, repoFullName string, pullNum int) ([]*EnhancedLock, error) {
	if s.state.Load().config.DenySystemUnlock {
		return nil, systemUnlockDenied()
	}
	return s.manager.ReleaseByPull(ctx, repoFullName, pullNum, SystemAtlantis)
}

func systemUnlockDenied() error {
	return &LockError{
		Code:    ErrCodePermissionDenied,
		Message: fmt.Sprintf("deny_system_unlock: true; %s may not release locks that it has no owner for", DescribeOwner(SystemAtlantis)),
	}
}
