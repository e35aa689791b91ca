package enhanced

import (
	"encoding/json"
	"fmt"

	"github.com/runatlantis/atlantis/server/events/models"
)

// LegacyRecords are the locks of Atlantis' own database in a transaction of the store
// that is in the same file: JSON of models.ProjectLock under the keys of
// models.GenerateLockKey. Values are valid until the transaction ends.
type LegacyRecords interface {
	// Get returns nil for none.
	Get(key string) []byte
	Put(key string, value []byte) error
	Delete(key string) error
	// Each calls see for the records whose keys begin so, in the order of their keys,
	// until it returns an error.
	Each(prefix string, see func(key string, value []byte) error) error
}

// recordLocks decides as stock's boltdb does, by its records and its rules, in
// transactions of the store that is in the same file. Stock writes each lock and each
// release to the disk by itself, one after the other; here many callers share that. A
// lock of stock's and a lock of this keep each other out.
//
// Unlike stock it stores no credentials, reads while others write, and frees the locks
// of a pull request in one step.
type recordLocks struct {
	member *member
	store  stillStore
}

// legacy is the database that decides where the store does not.
func (m *member) legacy() projectLocks {
	if store, ok := m.adapter.backend.(stillStore); ok && m.inOneFile() {
		return recordLocks{m, store}
	}
	return m.adapter.legacy
}

func (l recordLocks) change(change func(LegacyRecords) error) error {
	ctx, cancel := l.member.adapter.operationContext()
	defer cancel()
	return l.store.ChangeLegacyRecords(ctx, change)
}

func (l recordLocks) read(read func(LegacyRecords) error) error {
	ctx, cancel := l.member.adapter.operationContext()
	defer cancel()
	return l.store.ReadLegacyRecords(ctx, read)
}

func decodeRecord(key string, value []byte) (lock models.ProjectLock, err error) {
	if err := json.Unmarshal(value, &lock); err != nil {
		return models.ProjectLock{}, fmt.Errorf("the lock %q of Atlantis' own database: %w", key, ErrCorruptRecord)
	}
	// As stock does, see https://go.dev/issue/19486.
	lock.Time = lock.Time.Local()
	return lock, nil
}

func (l recordLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	key := models.GenerateLockKey(newLock.Project, newLock.Workspace)
	value, err := json.Marshal(SanitizeProjectLock(newLock))
	if err != nil {
		return false, models.ProjectLock{}, fmt.Errorf("a lock for Atlantis' own database: %w", err)
	}
	acquired, holder := false, newLock
	err = l.change(func(records LegacyRecords) (err error) {
		held := records.Get(key)
		if acquired = held == nil; acquired {
			holder = newLock
			return records.Put(key, value)
		}
		holder, err = decodeRecord(key, held)
		return err
	})
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	return acquired, holder, nil
}

func (l recordLocks) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	return l.unlock(project, workspace, func(models.ProjectLock) bool { return true })
}

func (l recordLocks) UnlockIfOwnedByPull(project models.Project, workspace string, pullNum int) (*models.ProjectLock, error) {
	return l.unlock(project, workspace, func(held models.ProjectLock) bool { return held.Pull.Num == pullNum })
}

func (l recordLocks) unlock(project models.Project, workspace string, frees func(models.ProjectLock) bool) (*models.ProjectLock, error) {
	key := models.GenerateLockKey(project, workspace)
	var freed *models.ProjectLock
	err := l.change(func(records LegacyRecords) error {
		freed = nil
		value := records.Get(key)
		if value == nil {
			return nil
		}
		held, err := decodeRecord(key, value)
		if err != nil || !frees(held) {
			return err
		}
		freed = &held
		return records.Delete(key)
	})
	if err != nil {
		return nil, err
	}
	return freed, nil
}

// UnlockByPull finds locks by the beginning of their keys, which can be another
// repository's, too: that is stock's rule.
func (l recordLocks) UnlockByPull(repoFullName string, pullNum int) ([]models.ProjectLock, error) {
	var freed []models.ProjectLock
	err := l.change(func(records LegacyRecords) error {
		freed = nil
		err := records.Each(repoFullName, func(key string, value []byte) error {
			held, err := decodeRecord(key, value)
			if err == nil && held.Pull.Num == pullNum {
				freed = append(freed, held)
			}
			return err
		})
		for _, lock := range freed {
			if err == nil {
				err = records.Delete(models.GenerateLockKey(lock.Project, lock.Workspace))
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return freed, nil
}

func (l recordLocks) List() ([]models.ProjectLock, error) {
	var locks []models.ProjectLock
	err := l.read(func(records LegacyRecords) error {
		return records.Each("", func(key string, value []byte) error {
			held, err := decodeRecord(key, value)
			locks = append(locks, held)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return locks, nil
}

func (l recordLocks) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	key := models.GenerateLockKey(project, workspace)
	var lock *models.ProjectLock
	err := l.read(func(records LegacyRecords) error {
		value := records.Get(key)
		if value == nil {
			return nil
		}
		held, err := decodeRecord(key, value)
		lock = &held
		return err
	})
	if err != nil {
		return nil, err
	}
	return lock, nil
}
