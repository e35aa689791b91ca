package enhanced

import (
	"fmt"
	"slices"
	"strings"

	"github.com/runatlantis/atlantis/server/events/models"
)

// TryLock takes the lock for the pull request of newLock, or returns the
// holder's lock with false. Atlantis takes a holder with the caller's pull
// number for the caller itself. So a lock of the same pull request is returned
// as stock does it, but a holder that Atlantis would mistake (the same number
// on another host, a user) is an error and never a lock. The lock has no lease
// unless LegacyLockTimeout is set. With the queue on, who is refused has a place
// in it, and is given the lock in its turn: the next TryLock claims it.
func (a *LockingAdapter) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	locks, leave, err := a.lockOperations()
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	defer leave()
	return locks.TryLock(newLock)
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

// Unlock releases whatever lock is held on the project and returns it, nil if
// there is none. It carries no owner: it acts, and is logged, as
// [SystemAtlantis]. DenySystemUnlock refuses it.
//
// Atlantis gets the project by cutting a lock key at slashes, which is
// ambiguous. When nothing is held on the project as given, the other projects
// with the same key are looked at; if several are held it refuses and names them.
func (a *LockingAdapter) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	locks, leave, err := a.lockOperations()
	if err != nil {
		return nil, err
	}
	defer leave()
	return locks.Unlock(project, workspace)
}

// uncleanSplit returns the held lock with the key of a project whose path is
// not clean, nil if there is none. Such a path comes from a key that was cut in
// a workspace's name: cleaned, it could be another project's.
func (a *LockingAdapter) uncleanSplit(project models.Project, workspace string) (*EnhancedLock, error) {
	key := models.GenerateLockKey(project, workspace)
	if key == ProjectResource(project, workspace).LegacyKey() {
		return nil, nil
	}
	return a.otherSplit(key)
}

// otherSplit returns the one held lock with stock's key, nil if there is none.
func (a *LockingAdapter) otherSplit(key string) (*EnhancedLock, error) {
	ctx, cancel := a.operationContext()
	defer cancel()
	locks, err := a.repeat.locksByLegacyKey(ctx, a.backend, key)
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

// UnlockIfOwnedByPull releases the lock if a pull request with the number holds
// it, and returns it; nil if not. The call names no host. With the queue on, a
// lock that others wait for is reserved for the pull request, which is about to
// plan again, see [ReleaseRequest].
func (a *LockingAdapter) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	locks, leave, err := a.lockOperations()
	if err != nil {
		return nil, err
	}
	defer leave()
	return locks.UnlockIfOwnedByPull(project, workspace, pullNum)
}

// List returns all held locks in the order of their keys. A record that cannot
// be read is left out and logged.
func (a *LockingAdapter) List() ([]models.ProjectLock, error) {
	locks, leave, err := a.lockOperations()
	if err != nil {
		return nil, err
	}
	defer leave()
	return locks.List()
}

// projectLocks returns stock's form of the locks on projects, in the order of
// stock's keys.
func projectLocks(locks []*EnhancedLock) []models.ProjectLock {
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

// GetLock returns the lock on the project, nil if there is none. Like Unlock it
// looks at the other projects with the same key.
func (a *LockingAdapter) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	locks, leave, err := a.lockOperations()
	if err != nil {
		return nil, err
	}
	defer leave()
	return locks.GetLock(project, workspace)
}

// UnlockByPull releases all locks of the pull request and returns them. It acts
// as [SystemAtlantis] and knows no host: where pull requests of several hosts
// have the number and hold locks, it refuses and names them. It never frees a
// user's lock. DenySystemUnlock refuses it.
func (a *LockingAdapter) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	locks, leave, err := a.lockOperations()
	if err != nil {
		return nil, err
	}
	defer leave()
	return locks.UnlockByPull(repoFullName, pullNum)
}

func systemUnlockDenied() error {
	return &LockError{
		Code:    ErrCodePermissionDenied,
		Message: fmt.Sprintf("deny_system_unlock: true; %s may not release locks that it has no owner for", DescribeOwner(SystemAtlantis)),
	}
}

// enhancedConfig returns the configuration to use, nil if the legacy database
// is to be called.
func (a *LockingAdapter) enhancedConfig() (*EnhancedConfig, error) {
	state := a.state.Load()
	switch {
	case state.config.Enabled && state.err != nil:
		return nil, state.err
	case state.config.Enabled:
		return state.config, nil
	default:
		return nil, a.servedBy(state.config)
	}
}
