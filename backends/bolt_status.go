package backends

import (
	"encoding/json"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// Pull status and command locks are stock's own code on the same file: there
// each method is one bbolt transaction already. What is added here keeps
// credentials out of the file, of errors and of the log.

// UpdateProjectStatus implements [enhanced.StatusStore].
func (b *BoltBackend) UpdateProjectStatus(pull models.PullRequest, workspace string, repoRelDir string, newStatus models.ProjectPlanStatus) error {
	if err := b.checkPullStatus(pull); err != nil {
		return err
	}
	return b.stock.UpdateProjectStatus(pull, workspace, repoRelDir, newStatus)
}

// GetPullStatus implements [enhanced.StatusStore].
func (b *BoltBackend) GetPullStatus(pull models.PullRequest) (*models.PullStatus, error) {
	if err := b.checkPullStatus(pull); err != nil {
		return nil, err
	}
	return b.stock.GetPullStatus(pull)
}

// DeletePullStatus implements [enhanced.StatusStore].
func (b *BoltBackend) DeletePullStatus(pull models.PullRequest) error {
	return b.stock.DeletePullStatus(pull)
}

// UpdatePullWithResults implements [enhanced.StatusStore]. Like stock it
// replaces a status that cannot be read.
func (b *BoltBackend) UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error) {
	if err := b.checkPullStatus(pull); err != nil {
		b.logger.Warn("discarding the unreadable pull status of %s", pullKey(pull))
		if err := b.stock.DeletePullStatus(pull); err != nil {
			return models.PullStatus{}, err
		}
	}
	return b.stock.UpdatePullWithResults(enhanced.SanitizePull(pull), newResults)
}

// LockCommand implements [enhanced.StatusStore].
func (b *BoltBackend) LockCommand(cmdName command.Name, lockTime time.Time) (*command.Lock, error) {
	return b.stock.LockCommand(cmdName, lockTime)
}

// UnlockCommand implements [enhanced.StatusStore].
func (b *BoltBackend) UnlockCommand(cmdName command.Name) error {
	return b.stock.UnlockCommand(cmdName)
}

// CheckCommandLock implements [enhanced.StatusStore].
func (b *BoltBackend) CheckCommandLock(cmdName command.Name) (*command.Lock, error) {
	return b.stock.CheckCommandLock(cmdName)
}

// checkPullStatus finds an unreadable status before stock does, whose error
// and log line would contain all of it.
func (b *BoltBackend) checkPullStatus(pull models.PullRequest) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket([]byte(legacyPullsBucket)).Get([]byte(pullKey(pull)))
		if value == nil {
			return nil
		}
		var status models.PullStatus
		if err := json.Unmarshal(value, &status); err != nil {
			return enhanced.NewBackendError("reading the pull status of "+pullKey(pull),
				fmt.Errorf("%w: %w", enhanced.ErrCorruptRecord, err))
		}
		return nil
	})
}

// pullKey is stock's key of a pull request's status.
func pullKey(pull models.PullRequest) string {
	return fmt.Sprintf("%s::%s::%d", pull.BaseRepo.VCSHost.Hostname, pull.BaseRepo.FullName, pull.Num)
}
