package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

// Pull statuses and command locks are under stock's keys and in its format.
// Stock reads, changes and writes them in three steps, and loses updates; here
// a value is replaced only if it is still the one that was read.

// maxReplace bounds how often a change is tried again because others were
// faster.
const maxReplace = 1000

// replaceStock changes a value of stock's, for a caller without a context.
func (b *RedisBackend) replaceStock(operation, key string, change func(value string) (string, error)) error {
	ctx, cancel := context.WithTimeout(b.ending, b.config.Load().OperationTimeout)
	defer cancel()
	return b.replace(ctx, operation, key, change)
}

// replace changes the value of one key. change gets "" for none and returns ""
// to delete; an error ends the operation.
func (b *RedisBackend) replace(ctx context.Context, operation, key string, change func(value string) (string, error)) error {
	for range maxReplace {
		value, err := b.getText(ctx, operation, key)
		if err != nil {
			return err
		}
		next, err := change(value)
		if err != nil || next == value {
			return err
		}
		reply, err := b.run(ctx, operation, b.scripts.status, []string{key}, value, next)
		if err != nil || reply[0] == "replaced" {
			return err
		}
	}
	return enhanced.NewBackendError(operation, fmt.Errorf("key %q changes all the time", key))
}

func (b *RedisBackend) getText(ctx context.Context, operation, key string) (string, error) {
	if err := b.ready(ctx, operation); err != nil {
		return "", err
	}
	return call(ctx, b, operation, false, func(ctx context.Context) (string, error) {
		node, err := b.nodeOf(ctx, key)
		if err != nil {
			return "", err
		}
		value, err := node.Get(ctx, key).Result()
		if hasErrorPrefix(err, "MOVED") || hasErrorPrefix(err, "ASK") {
			value, err = b.client.Get(ctx, key).Result()
		}
		if errors.Is(err, redis.Nil) {
			return "", nil
		}
		return value, err
	})
}

// GetPullStatus returns a pull request's status, nil for none.
func (b *RedisBackend) GetPullStatus(pull models.PullRequest) (*models.PullStatus, error) {
	key, err := statusKey(pull)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(b.ending, b.config.Load().OperationTimeout)
	defer cancel()
	value, err := b.getText(ctx, readStatus, key)
	if err != nil {
		return nil, err
	}
	return decodeStatus(key, value)
}

// DeletePullStatus removes a pull request's status.
func (b *RedisBackend) DeletePullStatus(pull models.PullRequest) error {
	key, err := statusKey(pull)
	if err != nil {
		return err
	}
	return b.replaceStock("delete the status of a pull request", key, func(string) (string, error) { return "", nil })
}

// UpdateProjectStatus sets the status of the first project with the workspace
// and directory.
func (b *RedisBackend) UpdateProjectStatus(pull models.PullRequest, workspace, repoRelDir string, newStatus models.ProjectPlanStatus) error {
	key, err := statusKey(pull)
	if err != nil {
		return err
	}
	return b.replaceStock("update the status of a project", key, func(value string) (string, error) {
		return setProjectStatus(key, value, workspace, repoRelDir, newStatus)
	})
}

// UpdatePullWithResults merges the results of a run into a pull request's
// status, or starts a new one when its head or base has changed.
func (b *RedisBackend) UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error) {
	key, err := statusKey(pull)
	if err != nil {
		return models.PullStatus{}, err
	}
	var next models.PullStatus
	err = b.replaceStock("update the status of a pull request", key, func(value string) (string, error) {
		status, err := decodeStatus(key, value)
		if err != nil {
			// Stock too replaces a status that it can't read.
			b.logger.Warn("%v; it is replaced", err)
		}
		next = mergeResults(status, enhanced.SanitizePull(pull), newResults)
		return encodeStatus(next)
	})
	if err != nil {
		return models.PullStatus{}, err
	}
	return next, nil
}

const commandLockPrefix = "global/"

func commandLockKey(name command.Name) string {
	return fmt.Sprintf("%s%s/lock", commandLockPrefix, name)
}

// LockCommand takes the global lock of a command; it fails if it is taken.
func (b *RedisBackend) LockCommand(cmdName command.Name, lockTime time.Time) (*command.Lock, error) {
	operation := fmt.Sprintf("lock command %s", cmdName)
	var lock *command.Lock
	err := b.replaceStock(operation, commandLockKey(cmdName), func(value string) (next string, err error) {
		lock, next, err = takeCommand(operation, value, cmdName, lockTime)
		return next, err
	})
	if err != nil {
		return nil, err
	}
	return lock, nil
}

// UnlockCommand releases the global lock of a command; it fails if nobody has
// taken it.
func (b *RedisBackend) UnlockCommand(cmdName command.Name) error {
	operation := fmt.Sprintf("unlock command %s", cmdName)
	return b.replaceStock(operation, commandLockKey(cmdName), func(value string) (string, error) {
		return releaseCommand(operation, value)
	})
}

// CheckCommandLock returns the global lock of a command, nil for none.
func (b *RedisBackend) CheckCommandLock(cmdName command.Name) (*command.Lock, error) {
	ctx, cancel := context.WithTimeout(b.ending, b.config.Load().OperationTimeout)
	defer cancel()
	operation := fmt.Sprintf("look up the lock of command %s", cmdName)
	value, err := b.getText(ctx, operation, commandLockKey(cmdName))
	if err != nil {
		return nil, err
	}
	return decodeCommand(operation, commandLockKey(cmdName), value)
}
