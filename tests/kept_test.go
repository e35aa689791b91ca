package tests

import (
	"sync"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// kept is a legacy database that outlives the adapters on it, and that some of
// them share in one process. Stock's on bbolt reads locks after the transaction
// that they are of, so nobody may write meanwhile: an adapter sees to that for the
// file that it has alone.
type kept struct {
	db.Database
	using *sync.RWMutex
	file  *bbolt.DB // nil where nobody else writes to it
}

// newKept keeps a database; file is its file if others write to it, too.
func newKept(database db.Database, file *bbolt.DB) kept {
	return kept{database, new(sync.RWMutex), file}
}

// still waits until nobody writes; the reading ends it.
func (k kept) still() (end func()) {
	k.using.Lock()
	if k.file == nil {
		return k.using.Unlock
	}
	tx, err := k.file.Begin(true)
	if err != nil { // it is closed
		return k.using.Unlock
	}
	return func() {
		_ = tx.Rollback() //nolint:errcheck // nothing was written
		k.using.Unlock()
	}
}

func (kept) Close() error { return nil }

func (k kept) List() ([]models.ProjectLock, error) {
	defer k.still()()
	return k.Database.List()
}

func (k kept) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	defer k.still()()
	return k.Database.GetLock(project, workspace)
}

func (k kept) TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error) {
	k.using.RLock()
	defer k.using.RUnlock()
	return k.Database.TryLock(lock)
}

func (k kept) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	k.using.RLock()
	defer k.using.RUnlock()
	return k.Database.Unlock(project, workspace)
}

func (k kept) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	k.using.RLock()
	defer k.using.RUnlock()
	return k.Database.UnlockIfOwnedByPull(project, workspace, pullNum)
}

func (k kept) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	k.using.Lock()
	defer k.using.Unlock()
	return k.Database.UnlockByPull(repoFullName, pullNum)
}

func (k kept) UpdatePullWithResults(pull models.PullRequest, results []command.ProjectResult) (models.PullStatus, error) {
	k.using.RLock()
	defer k.using.RUnlock()
	return k.Database.UpdatePullWithResults(pull, results)
}

func (k kept) DeletePullStatus(pull models.PullRequest) error {
	k.using.RLock()
	defer k.using.RUnlock()
	return k.Database.DeletePullStatus(pull)
}
