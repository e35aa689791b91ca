package enhanced

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/models"
)

// compatibilityRun is one compatibility test.
type compatibilityRun struct {
	ctx      context.Context // it is that of one call, whose checks share it
	database db.Database
	// adapter is the adapter inside database, nil if there is none.
	adapter    *LockingAdapter
	repository string

	// What is to be cleaned up. Each is noted before the call that makes it.
	mu          sync.Mutex // protects taken
	taken       map[scratchPull]bool
	hasStatus   bool
	commandLock int64 // the time that it has, which tells it from another's
}

// scratchPull is a pull request of a test.
type scratchPull struct {
	repository string
	number     int
}

func (p scratchPull) pullRequest() models.PullRequest {
	return models.PullRequest{
		Num: p.number, HeadCommit: "0000000000000000000000000000000000000001", HeadBranch: "check", BaseBranch: "main", Author: "atlantis-locks",
		State: models.OpenPullState,
		BaseRepo: models.Repo{
			FullName: p.repository, Name: "app",
			VCSHost: models.VCSHost{Hostname: "check.invalid", Type: models.Github},
		},
	}
}

// lock returns a lock for a pull request, and notes that the test takes it.
func (r *compatibilityRun) lock(pull scratchPull, path, name, workspace string) models.ProjectLock {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken[pull] = true
	return models.ProjectLock{
		Project:   models.NewProject(pull.repository, path, name),
		Workspace: workspace,
		Pull:      pull.pullRequest(),
		User:      models.User{Username: "atlantis-locks"},
		Time:      time.Now().Truncate(time.Second),
	}
}

func (r *compatibilityRun) isScratch(lock models.ProjectLock) bool {
	return lock.Project.RepoFullName == r.repository || lock.Project.RepoFullName == r.sibling()
}

// sibling is a repository whose name starts with that of the other.
func (r *compatibilityRun) sibling() string { return r.repository + "-prod" }

// wantLocked tries a lock and compares the answer: acquired, or the pull request
// that has it.
func (r *compatibilityRun) wantLocked(database db.Database, lock models.ProjectLock, acquired bool, holder int) error {
	if err := r.ctx.Err(); err != nil {
		return skipped("%v", err)
	}
	got, current, err := database.TryLock(lock)
	switch {
	case err != nil:
		return fmt.Errorf("TryLock: %w", err)
	case got != acquired || current.Pull.Num != holder || current.Project != lock.Project || current.Workspace != lock.Workspace:
		return found("TryLock of pull request %d answers %t and the lock of %d; it should be %t and %d", lock.Pull.Num, got, current.Pull.Num, acquired, holder)
	}
	return nil
}

// wantHolder looks a lock up; holder 0 stands for none.
func wantHolder(database db.Database, lock models.ProjectLock, holder int) error {
	current, err := database.GetLock(lock.Project, lock.Workspace)
	switch {
	case err != nil:
		return fmt.Errorf("GetLock: %w", err)
	case numberOf(current) != holder:
		return found("GetLock answers the lock of pull request %d; it should be %d (0 is none)", numberOf(current), holder)
	}
	return nil
}

// wantReleased compares what a method answered that unlocks; holder 0 stands for
// nothing.
func wantReleased(method string, current *models.ProjectLock, err error, holder int) error {
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", method, err)
	case numberOf(current) != holder:
		return found("%s answers the lock of pull request %d; it should be %d (0 is none)", method, numberOf(current), holder)
	}
	return nil
}

func numberOf(lock *models.ProjectLock) int {
	if lock == nil {
		return 0
	}
	return lock.Pull.Num
}

// inOrder makes steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
