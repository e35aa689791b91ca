package tests

import (
	"sync"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

// kept is a legacy database that outlives the adapters on it, and that some of
// them share in one process. Stock's on bbolt reads locks after the transaction
// that they are of, so nobody may write meanwhile: an adapter sees to that for the
// file that it has alone.
type kept struct {
	db.Database
	using *sync.Mutex
}

func newKept(database db.Database) kept { return kept{database, new(sync.Mutex)} }

func (kept) Close() error { return nil }

func (k kept) List() ([]models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.List()
}

func (k kept) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.GetLock(project, workspace)
}

func (k kept) TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.TryLock(lock)
}

func (k kept) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.Unlock(project, workspace)
}

func (k kept) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.UnlockIfOwnedByPull(project, workspace, pullNum)
}

func (k kept) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.UnlockByPull(repoFullName, pullNum)
}

func (k kept) UpdatePullWithResults(pull models.PullRequest, results []command.ProjectResult) (models.PullStatus, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.UpdatePullWithResults(pull, results)
}

func (k kept) DeletePullStatus(pull models.PullRequest) error {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.DeletePullStatus(pull)
}
