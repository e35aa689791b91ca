package enhanced

import (
	"context"
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

// DeletePullStatus deletes the status of a pull request. Atlantis does so when
// that is closed: with the queue on, a run that still goes on takes no more locks,
// see [RunKeeper].
func (a *LockingAdapter) DeletePullStatus(pull models.PullRequest) error {
	store, err := a.statusStore()
	if err != nil {
		return err
	}
	// First: where it fails, nothing has changed, and the caller tries again.
	err = a.tellRunKeeper(pull, func(ctx context.Context, keeper RunKeeper, owner Owner) error {
		return keeper.ClosePull(ctx, owner, pull.HeadCommit)
	})
	if err != nil {
		return err
	}
	return store.DeletePullStatus(pull)
}

// UpdatePullWithResults merges results into the status of a pull request.
// Atlantis does so at the end of a run: with the queue on, what the run has
// reserved and not taken again goes to those who wait.
func (a *LockingAdapter) UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error) {
	store, err := a.statusStore()
	if err != nil {
		return models.PullStatus{}, err
	}
	status, err := store.UpdatePullWithResults(pull, newResults)
	// The run has ended, whatever became of its status.
	ended := a.tellRunKeeper(pull, func(ctx context.Context, keeper RunKeeper, owner Owner) error {
		return keeper.EndRun(ctx, owner)
	})
	if ended != nil {
		// The status is right, and what was reserved ends by itself.
		a.logger.Err("ending the run of pull request %d of %q: %v", pull.Num, pull.BaseRepo.FullName, ended)
	}
	return status, err
}

// tellRunKeeper tells the backend of a run, if it has to know.
func (a *LockingAdapter) tellRunKeeper(pull models.PullRequest, tell func(ctx context.Context, keeper RunKeeper, owner Owner) error) error {
	config, err := a.enhancedConfig()
	if err != nil || config == nil || !config.queuesRepository(pull.BaseRepo.FullName) {
		return err
	}
	keeper, ok := a.backend.(RunKeeper)
	if !ok || a.requireStore(context.Background()) != nil {
		return nil
	}
	ctx, cancel := a.operationContext()
	defer cancel()
	return tell(ctx, keeper, PullOwner(pull.BaseRepo.VCSHost.Hostname, pull.BaseRepo.FullName, pull.Num))
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
