package backends

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

// What stock Atlantis keeps beside locks, in its own format: the status of pull
// requests and the global locks of commands. Each store replaces one value by
// another in one step; what follows computes that value. An empty value stands
// for none.

const readStatus = "read the status of a pull request"

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

// decodeStatus reads a status, nil for none, without the credentials that stock
// stores with it. Its error repeats nothing of the value.
func decodeStatus(key, value string) (*models.PullStatus, error) {
	if value == "" {
		return nil, nil
	}
	var status models.PullStatus
	if err := json.Unmarshal([]byte(value), &status); err != nil {
		return nil, enhanced.NewBackendError(readStatus, fmt.Errorf("record %q: %w", key, enhanced.ErrCorruptRecord))
	}
	status.Pull = enhanced.SanitizePull(status.Pull)
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

// setProjectStatus returns a pull request's status after that of the first
// project with the workspace and directory was set.
func setProjectStatus(key, value, workspace, directory string, to models.ProjectPlanStatus) (string, error) {
	status, err := decodeStatus(key, value)
	if status == nil || err != nil {
		return value, err
	}
	for i := range status.Projects {
		if p := &status.Projects[i]; p.Workspace == workspace && p.RepoRelDir == directory {
			p.Status = to
			break
		}
	}
	return encodeStatus(*status)
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

// takeCommand returns the lock of a command and its value. It fails where there
// is one.
func takeCommand(operation, value string, name command.Name, at time.Time) (*command.Lock, string, error) {
	if value != "" {
		return nil, "", &enhanced.LockError{Code: enhanced.ErrCodeLockExists, Message: operation + ": lock already exists"}
	}
	lock := command.Lock{CommandName: name, LockMetadata: command.LockMetadata{UnixTime: at.Unix()}}
	data, err := json.Marshal(lock)
	if err != nil {
		return nil, "", enhanced.NewInvalidError("command %s: %v", name, err)
	}
	return &lock, string(data), nil
}

// releaseCommand fails where a command has no lock to release.
func releaseCommand(operation, value string) (string, error) {
	if value == "" {
		return "", &enhanced.LockError{Code: enhanced.ErrCodeLockNotFound, Message: operation + ": no lock exists"}
	}
	return "", nil
}

// decodeCommand reads the lock of a command, nil for none.
func decodeCommand(operation, key, value string) (*command.Lock, error) {
	if value == "" {
		return nil, nil
	}
	var lock command.Lock
	if err := json.Unmarshal([]byte(value), &lock); err != nil {
		return nil, enhanced.NewBackendError(operation, fmt.Errorf("record %q: %w", key, enhanced.ErrCorruptRecord))
	}
	return &lock, nil
}
