package backends

import (
	"context"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// Pull statuses and command locks are in stock's buckets, under its keys and in
// its format. Stock's own code would wait for another writer for ever, store
// credentials, and make the next look at all locks compare them with stock's.
// Here each change is a step like any other.

// replaceValue changes the value of one key of a bucket of stock's, in one step.
// change gets "" for none and returns "" to delete; with an error nothing
// changes.
func replaceValue[T any](b *BoltBackend, operation, bucket, key string, change func(value string) (result T, next string, err error)) (T, error) {
	ctx, cancel := b.statusContext()
	defer cancel()
	return decide(ctx, b.committer, operation, func(batch *batch) (T, error) {
		values := batch.tx.Bucket([]byte(bucket))
		stored := values.Get([]byte(key))
		value := string(stored)
		result, next, err := change(value)
		switch {
		case err != nil:
		case next == "" && stored != nil:
			batch.dirty = true
			err = values.Delete([]byte(key))
		case next != value:
			batch.dirty = true
			err = values.Put([]byte(key), []byte(next))
		}
		return result, err
	})
}

// readValue returns the value of a key of a bucket of stock's, "" for none.
func (b *BoltBackend) readValue(operation, bucket, key string) (value string, err error) {
	ctx, cancel := b.statusContext()
	defer cancel()
	err = b.view(ctx, operation, func(tx *bbolt.Tx) error {
		value = string(tx.Bucket([]byte(bucket)).Get([]byte(key)))
		return nil
	})
	return value, err
}

// statusContext bounds what Atlantis calls without a context.
func (b *BoltBackend) statusContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), b.config.Load().OperationTimeout)
}

// GetPullStatus implements [enhanced.StatusStore].
func (b *BoltBackend) GetPullStatus(pull models.PullRequest) (*models.PullStatus, error) {
	key, err := statusKey(pull)
	if err != nil {
		return nil, err
	}
	value, err := b.readValue(readStatus, legacyPullsBucket, key)
	if err != nil {
		return nil, err
	}
	return decodeStatus(key, value)
}

// DeletePullStatus implements [enhanced.StatusStore].
func (b *BoltBackend) DeletePullStatus(pull models.PullRequest) error {
	key, err := statusKey(pull)
	if err != nil {
		return err
	}
	_, err = replaceValue(b, "delete the status of a pull request", legacyPullsBucket, key,
		func(string) (none struct{}, next string, err error) { return none, "", nil })
	return err
}

// UpdateProjectStatus implements [enhanced.StatusStore].
func (b *BoltBackend) UpdateProjectStatus(pull models.PullRequest, workspace, repoRelDir string, newStatus models.ProjectPlanStatus) error {
	key, err := statusKey(pull)
	if err != nil {
		return err
	}
	_, err = replaceValue(b, "update the status of a project", legacyPullsBucket, key,
		func(value string) (none struct{}, next string, err error) {
			next, err = setProjectStatus(key, value, workspace, repoRelDir, newStatus)
			return none, next, err
		})
	return err
}

// UpdatePullWithResults implements [enhanced.StatusStore]. Like stock it
// replaces a status that cannot be read.
func (b *BoltBackend) UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error) {
	key, err := statusKey(pull)
	if err != nil {
		return models.PullStatus{}, err
	}
	return replaceValue(b, "update the status of a pull request", legacyPullsBucket, key,
		func(value string) (models.PullStatus, string, error) {
			status, err := decodeStatus(key, value)
			if err != nil {
				b.logger.Warn("%v; it is replaced", err)
			}
			merged := mergeResults(status, enhanced.SanitizePull(pull), newResults)
			next, err := encodeStatus(merged)
			return merged, next, err
		})
}

// commandKey is stock's key of a command's lock.
func commandKey(name command.Name) string { return fmt.Sprintf("%s/lock", name) }

// LockCommand implements [enhanced.StatusStore]. It fails if the lock is taken.
func (b *BoltBackend) LockCommand(cmdName command.Name, lockTime time.Time) (*command.Lock, error) {
	operation := fmt.Sprintf("lock command %s", cmdName)
	return replaceValue(b, operation, legacyCommandsBucket, commandKey(cmdName),
		func(value string) (*command.Lock, string, error) {
			return takeCommand(operation, value, cmdName, lockTime)
		})
}

// UnlockCommand implements [enhanced.StatusStore]. It fails if nobody has taken
// the lock.
func (b *BoltBackend) UnlockCommand(cmdName command.Name) error {
	operation := fmt.Sprintf("unlock command %s", cmdName)
	_, err := replaceValue(b, operation, legacyCommandsBucket, commandKey(cmdName),
		func(value string) (none struct{}, next string, err error) {
			next, err = releaseCommand(operation, value)
			return none, next, err
		})
	return err
}

// CheckCommandLock implements [enhanced.StatusStore].
func (b *BoltBackend) CheckCommandLock(cmdName command.Name) (*command.Lock, error) {
	operation := fmt.Sprintf("look up the lock of command %s", cmdName)
	value, err := b.readValue(operation, legacyCommandsBucket, commandKey(cmdName))
	if err != nil {
		return nil, err
	}
	return decodeCommand(operation, commandKey(cmdName), value)
}
