package enhanced

import (
	"context"
	"sync"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

// steadyBolt is stock's boltdb, with nobody writing while locks are read. Stock
// decodes what it has read after its transaction has ended, when a write may have
// changed or unmapped that memory, which ends the process. Those who write share the
// lock, so that they wait for bbolt's own, where a backend on the same file is one among
// them and not the next after each.
type steadyBolt struct {
	*boltdb.BoltDB
	using sync.RWMutex
	store stillStore // nil if it is no file
}

// stillStore is a backend that may write to the file of the legacy database.
type stillStore interface {
	// HoldStill calls f while nobody writes to the file.
	HoldStill(f func())
	// ChangeLegacyRecords and ReadLegacyRecords work on the locks of the legacy
	// database that is in the backend's own file, see [LegacyRecords]. Change can run
	// more than once; its error undoes it.
	ChangeLegacyRecords(ctx context.Context, change func(LegacyRecords) error) error
	ReadLegacyRecords(ctx context.Context, read func(LegacyRecords) error) error
	// UnknownBuckets returns the buckets of the file that are neither the backend's nor
	// those that stock's boltdb makes.
	UnknownBuckets(ctx context.Context) ([]string, error)
}

// steady returns a legacy database that can be read while it, or the backend, is
// written.
func steady(legacy db.Database, backend Backend) db.Database {
	stock, ok := legacy.(*boltdb.BoltDB)
	if !ok || stock == nil {
		return legacy
	}
	store, _ := backend.(stillStore)
	return &steadyBolt{BoltDB: stock, store: store}
}

// read calls f, which only reads, while nobody writes.
func (s *steadyBolt) read(f func()) {
	s.using.Lock()
	defer s.using.Unlock()
	if s.store != nil {
		s.store.HoldStill(f)
	} else {
		f()
	}
}

func (s *steadyBolt) List() (locks []models.ProjectLock, err error) {
	s.read(func() { locks, err = s.BoltDB.List() })
	return locks, err
}

func (s *steadyBolt) GetLock(project models.Project, workspace string) (lock *models.ProjectLock, err error) {
	s.read(func() { lock, err = s.BoltDB.GetLock(project, workspace) })
	return lock, err
}

func (s *steadyBolt) TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error) {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.TryLock(lock)
}

func (s *steadyBolt) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.Unlock(project, workspace)
}

func (s *steadyBolt) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.UnlockIfOwnedByPull(project, workspace, pullNum)
}

// UnlockByPull finds the locks before it releases them: nobody takes one meanwhile.
func (s *steadyBolt) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	s.using.Lock()
	defer s.using.Unlock()
	return s.BoltDB.UnlockByPull(repoFullName, pullNum)
}

func (s *steadyBolt) UpdateProjectStatus(pull models.PullRequest, workspace, repoRelDir string, newStatus models.ProjectPlanStatus) error {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.UpdateProjectStatus(pull, workspace, repoRelDir, newStatus)
}

func (s *steadyBolt) DeletePullStatus(pull models.PullRequest) error {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.DeletePullStatus(pull)
}

func (s *steadyBolt) UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error) {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.UpdatePullWithResults(pull, newResults)
}

func (s *steadyBolt) LockCommand(name command.Name, lockTime time.Time) (*command.Lock, error) {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.LockCommand(name, lockTime)
}

func (s *steadyBolt) UnlockCommand(name command.Name) error {
	s.using.RLock()
	defer s.using.RUnlock()
	return s.BoltDB.UnlockCommand(name)
}

// Close waits for those who read.
func (s *steadyBolt) Close() error {
	s.using.Lock()
	defer s.using.Unlock()
	return s.BoltDB.Close()
}
