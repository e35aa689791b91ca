package enhanced

import (
	"time"

	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

// UpdateProjectStatus updates the status of one project of a pull request.
func (a *LockingAdapter) UpdateProjectStatus(pull models.PullRequest, workspace string, repoRelDir string, newStatus models.ProjectPlanStatus) error {
	store, err := a.statusStore()
	if err != nil {
		return err
	}
	return store.UpdateProjectStatus(pull, workspace, repoRelDir, newStatus)
}

// GetPullStatus returns the status of a pull request, nil if there is none.
func (a *LockingAdapter) GetPullStatus(pull models.PullRequest) (*models.PullStatus, error) {
	store, err := a.statusStore()
	if err != nil {
		return nil, err
	}
	return store.GetPullStatus(pull)
}

// DeletePullStatus deletes the status of a pull request.
func (a *LockingAdapter) DeletePullStatus(pull models.PullRequest) error {
	store, err := a.statusStore()
	if err != nil {
		return err
	}
	return store.DeletePullStatus(pull)
}

// UpdatePullWithResults merges results into the status of a pull request.
func (a *LockingAdapter) UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error) {
	store, err := a.statusStore()
	if err != nil {
		return models.PullStatus{}, err
	}
	return store.UpdatePullWithResults(pull, newResults)
}

// LockCommand takes the global lock of a command.
func (a *LockingAdapter) LockCommand(cmdName command.Name, lockTime time.Time) (*command.Lock, error) {
	store, err := a.statusStore()
	if err != nil {
		return nil, err
	}
	return store.LockCommand(cmdName, lockTime)
}

// UnlockCommand releases the global lock of a command.
func (a *LockingAdapter) UnlockCommand(cmdName command.Name) error {
	store, err := a.statusStore()
	if err != nil {
		return err
	}
	return store.UnlockCommand(cmdName)
}

// CheckCommandLock returns the global lock of a command, nil if it is not held.
func (a *LockingAdapter) CheckCommandLock(cmdName command.Name) (*command.Lock, error) {
	store, err := a.statusStore()
	if err != nil {
		return nil, err
	}
	return store.CheckCommandLock(cmdName)
}

// statusStore returns what serves pull status and command locks: the legacy
// database while there is one, else the backend.
func (a *LockingAdapter) statusStore() (StatusStore, error) {
	if a.legacy != nil {
		return a.legacy, nil
	}
	if err := a.state.Load().err; err != nil {
		return nil, err
	}
	if store, ok := a.backend.(StatusStore); ok {
		return store, nil
	}
	return nil, NewInvalidError("no legacy database, and the backend %T can't keep pull status", a.backend)
}
