package enhanced

import (
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
	locks, err := a.begin()
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	defer a.under.RUnlock()
	return locks.TryLock(newLock)
}

// Unlock releases whatever lock is held on the project and returns it, nil if
// there is none. It carries no owner: it acts, and is logged, as
// [SystemAtlantis]. DenySystemUnlock refuses it.
//
// Atlantis gets the project by cutting a lock key at slashes, which is
// ambiguous. When nothing is held on the project as given, the other projects
// with the same key are looked at; if several are held it refuses and names them.
func (a *LockingAdapter) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	locks, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer a.under.RUnlock()
	return locks.Unlock(project, workspace)
}

// UnlockIfOwnedByPull releases the lock if a pull request with the number holds
// it, and returns it; nil if not. The call names no host. With the queue on, a
// lock that others wait for is reserved for the pull request, which is about to
// plan again, see [ReleaseRequest].
func (a *LockingAdapter) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	locks, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer a.under.RUnlock()
	return locks.UnlockIfOwnedByPull(project, workspace, pullNum)
}

// List returns all held locks in the order of their keys. A record that cannot
// be read is left out and logged.
func (a *LockingAdapter) List() ([]models.ProjectLock, error) {
	locks, err := a.reading()
	if err != nil {
		return nil, err
	}
	return locks.List()
}

// GetLock returns the lock on the project, nil if there is none. Like Unlock it
// looks at the other projects with the same key.
func (a *LockingAdapter) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	locks, err := a.reading()
	if err != nil {
		return nil, err
	}
	return locks.GetLock(project, workspace)
}

// UnlockByPull releases all locks of the pull request and returns them. It acts
// as [SystemAtlantis] and knows no host: where pull requests of several hosts
// have the number and hold locks, it refuses and names them. It never frees a
// user's lock. DenySystemUnlock refuses it.
func (a *LockingAdapter) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	locks, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer a.under.RUnlock()
	return locks.UnlockByPull(repoFullName, pullNum)
}

// begin begins an operation and returns what decides who holds a project. Without an
// error that stays so until the caller unlocks a.under for reading.
func (a *LockingAdapter) begin() (projectLocks, error) {
	a.under.RLock()
	locks, err := a.locks()
	if err != nil {
		a.under.RUnlock()
	}
	return locks, err
}

// locks returns what decides who holds a project.
func (a *LockingAdapter) locks() (projectLocks, error) {
	config, err := a.enhancedConfig()
	switch {
	case err != nil:
		return nil, err
	case config == nil:
		a.legacyIsAlone()
		return a.legacy, nil
	}
	if a.member == nil {
		if f := a.fallbackFor(config); f != nil {
			return f, nil
		}
	}
	if !a.hasFallback(config) { // else the adapter is closed
		a.legacyIsLeft()
	}
	if a.member != nil {
		return memberLocks{a.member}, nil
	}
	return a.store, nil
}

// reading returns what says who holds a project. A change of who decides does not wait
// for those who read: an [Authorizer] can, within an operation.
func (a *LockingAdapter) reading() (projectLocks, error) {
	config, err := a.enhancedConfig()
	switch {
	case err != nil:
		return nil, err
	case config == nil:
		return a.legacy, nil
	case a.member != nil:
		return memberLocks{a.member}, nil
	}
	if f := a.runningFallback(); f != nil {
		return f, nil
	}
	return a.store, nil
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
