package backends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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

// replace changes the value of one key. change gets "" for none and returns ""
// to delete; an error ends the operation.
func (b *RedisBackend) replace(operation, key string, change func(value string) (string, error)) error {
	ctx, cancel := context.WithTimeout(b.ending, b.config.Load().OperationTimeout)
	defer cancel()
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

// statusKey is stock's key of a pull request's status.
func statusKey(pull models.PullRequest) (string, error) {
	host, repository := pull.BaseRepo.VCSHost.Hostname, pull.BaseRepo.FullName
	for _, part := range []string{host, repository} {
		if strings.Contains(part, "::") {
			return "", enhanced.NewInvalidError("%q contains \"::\", which stock Atlantis' keys can't have", part)
		}
	}
	return fmt.Sprintf("%s::%s::%d", host, repository, pull.Num), nil
}

func decodeStatus(key, value string) (*models.PullStatus, error) {
	if value == "" {
		return nil, nil
	}
	var status models.PullStatus
	if err := json.Unmarshal([]byte(value), &status); err != nil {
		return nil, enhanced.NewBackendError("read the status of a pull request", fmt.Errorf("record %q: %w", key, err))
	}
	return &status, nil
}

func encodeStatus(status models.PullStatus) (string, error) {
	status.Pull = enhanced.SanitizePull(status.Pull)
	data, err := json.Marshal(status)
	if err != nil {
		return "", enhanced.NewBackendError("write the status of a pull request", err)
	}
	return string(data), nil
}

// GetPullStatus returns a pull request's status, nil for none.
func (b *RedisBackend) GetPullStatus(pull models.PullRequest) (*models.PullStatus, error) {
	key, err := statusKey(pull)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(b.ending, b.config.Load().OperationTimeout)
	defer cancel()
	value, err := b.getText(ctx, "read the status of a pull request", key)
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
	return b.replace("delete the status of a pull request", key, func(string) (string, error) { return "", nil })
}

// UpdateProjectStatus sets the status of the first project with the workspace
// and directory.
func (b *RedisBackend) UpdateProjectStatus(pull models.PullRequest, workspace, repoRelDir string, newStatus models.ProjectPlanStatus) error {
	key, err := statusKey(pull)
	if err != nil {
		return err
	}
	return b.replace("update the status of a project", key, func(value string) (string, error) {
		status, err := decodeStatus(key, value)
		if status == nil || err != nil {
			return value, err
		}
		for i := range status.Projects {
			if p := &status.Projects[i]; p.Workspace == workspace && p.RepoRelDir == repoRelDir {
				p.Status = newStatus
				return encodeStatus(*status)
			}
		}
		return value, nil
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
	err = b.replace("update the status of a pull request", key, func(value string) (string, error) {
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

// mergeResults returns a pull request's status after a run, as stock computes
// it. A run can be of some of the projects; the others stay as they are. When
// the pull request has moved on only the policies' approvals stay.
func mergeResults(status *models.PullStatus, pull models.PullRequest, results []command.ProjectResult) models.PullStatus {
	current := status != nil && status.Pull.HeadCommit == pull.HeadCommit &&
		(pull.BaseBranch == "" || status.Pull.BaseBranch == pull.BaseBranch)
	find := func(projects []models.ProjectStatus, r command.ProjectResult) *models.ProjectStatus {
		for i := range projects {
			p := &projects[i]
			if p.Workspace == r.Workspace && p.RepoRelDir == r.RepoRelDir && p.ProjectName == r.ProjectName {
				return p
			}
		}
		return nil
	}
	next := models.PullStatus{Pull: pull}
	if current {
		next = *status
	}
	for _, r := range results {
		if current {
			if p := find(next.Projects, r); p != nil {
				p.Status = r.PlanStatus()
				p.PolicyStatus = mergePolicies(p.PolicyStatus, r.PolicyStatus())
				continue
			}
		}
		added := models.ProjectStatus{
			Workspace: r.Workspace, RepoRelDir: r.RepoRelDir, ProjectName: r.ProjectName,
			PolicyStatus: r.PolicyStatus(), Status: r.PlanStatus(),
		}
		if !current && status != nil {
			for _, old := range status.Projects {
				if find([]models.ProjectStatus{old}, r) != nil && len(old.PolicyStatus) > 0 {
					added.PolicyStatus = old.PolicyStatus
					break
				}
			}
		}
		next.Projects = append(next.Projects, added)
	}
	return next
}

// mergePolicies replaces the policy sets that a run has checked.
func mergePolicies(before, checked []models.PolicySetStatus) []models.PolicySetStatus {
	if len(before) == 0 {
		return checked
	}
	for i := range before {
		for _, set := range checked {
			if set.PolicySetName == before[i].PolicySetName {
				before[i] = set
			}
		}
	}
	return before
}

const commandLockPrefix = "global/"

func commandLockKey(name command.Name) string {
	return fmt.Sprintf("%s%s/lock", commandLockPrefix, name)
}

// LockCommand takes the global lock of a command; it fails if it is taken.
func (b *RedisBackend) LockCommand(cmdName command.Name, lockTime time.Time) (*command.Lock, error) {
	lock := command.Lock{CommandName: cmdName, LockMetadata: command.LockMetadata{UnixTime: lockTime.Unix()}}
	data, err := json.Marshal(lock)
	if err != nil {
		return nil, enhanced.NewInvalidError("command %s: %v", cmdName, err)
	}
	operation := fmt.Sprintf("lock command %s", cmdName)
	err = b.replace(operation, commandLockKey(cmdName), func(value string) (string, error) {
		if value != "" {
			return "", enhanced.NewBackendError(operation, errors.New("lock already exists"))
		}
		return string(data), nil
	})
	if err != nil {
		return nil, err
	}
	return &lock, nil
}

// UnlockCommand releases the global lock of a command; it fails if nobody has
// taken it.
func (b *RedisBackend) UnlockCommand(cmdName command.Name) error {
	operation := fmt.Sprintf("unlock command %s", cmdName)
	return b.replace(operation, commandLockKey(cmdName), func(value string) (string, error) {
		if value == "" {
			return "", enhanced.NewBackendError(operation, errors.New("no lock exists"))
		}
		return "", nil
	})
}

// CheckCommandLock returns the global lock of a command, nil for none.
func (b *RedisBackend) CheckCommandLock(cmdName command.Name) (*command.Lock, error) {
	ctx, cancel := context.WithTimeout(b.ending, b.config.Load().OperationTimeout)
	defer cancel()
	operation := fmt.Sprintf("look up the lock of command %s", cmdName)
	value, err := b.getText(ctx, operation, commandLockKey(cmdName))
	if value == "" || err != nil {
		return nil, err
	}
	var lock command.Lock
	if err := json.Unmarshal([]byte(value), &lock); err != nil {
		return nil, enhanced.NewBackendError(operation, fmt.Errorf("record %q: %w", commandLockKey(cmdName), err))
	}
	return &lock, nil
}
