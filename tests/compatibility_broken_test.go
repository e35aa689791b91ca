package tests

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// brokenAdapter is an adapter with other methods of its own, each of which is nil or
// replaces the adapter's.
type brokenAdapter struct {
	*enhanced.LockingAdapter
	tryLock             func(models.ProjectLock) (bool, models.ProjectLock, error)
	unlock              func(models.Project, string) (*models.ProjectLock, error)
	unlockIfOwnedByPull func(models.Project, string, int) (*models.ProjectLock, error)
	list                func() ([]models.ProjectLock, error)
	getLock             func(models.Project, string) (*models.ProjectLock, error)
	unlockByPull        func(string, int) ([]models.ProjectLock, error)
	updateProjectStatus func(models.PullRequest, string, string, models.ProjectPlanStatus) error
	getPullStatus       func(models.PullRequest) (*models.PullStatus, error)
	deletePullStatus    func(models.PullRequest) error
	updatePull          func(models.PullRequest, []command.ProjectResult) (models.PullStatus, error)
	lockCommand         func(command.Name, time.Time) (*command.Lock, error)
	unlockCommand       func(command.Name) error
	checkCommandLock    func(command.Name) (*command.Lock, error)
	ping                func() error
}

func (b *brokenAdapter) TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error) {
	if b.tryLock != nil {
		return b.tryLock(lock)
	}
	return b.LockingAdapter.TryLock(lock)
}

func (b *brokenAdapter) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	if b.unlock != nil {
		return b.unlock(project, workspace)
	}
	return b.LockingAdapter.Unlock(project, workspace)
}

func (b *brokenAdapter) UnlockIfOwnedByPull(project models.Project, workspace string, number int) (*models.ProjectLock, error) {
	if b.unlockIfOwnedByPull != nil {
		return b.unlockIfOwnedByPull(project, workspace, number)
	}
	return b.LockingAdapter.UnlockIfOwnedByPull(project, workspace, number)
}

func (b *brokenAdapter) List() ([]models.ProjectLock, error) {
	if b.list != nil {
		return b.list()
	}
	return b.LockingAdapter.List()
}

func (b *brokenAdapter) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	if b.getLock != nil {
		return b.getLock(project, workspace)
	}
	return b.LockingAdapter.GetLock(project, workspace)
}

func (b *brokenAdapter) UnlockByPull(repository string, number int) ([]models.ProjectLock, error) {
	if b.unlockByPull != nil {
		return b.unlockByPull(repository, number)
	}
	return b.LockingAdapter.UnlockByPull(repository, number)
}

func (b *brokenAdapter) UpdateProjectStatus(pull models.PullRequest, workspace, dir string, status models.ProjectPlanStatus) error {
	if b.updateProjectStatus != nil {
		return b.updateProjectStatus(pull, workspace, dir, status)
	}
	return b.LockingAdapter.UpdateProjectStatus(pull, workspace, dir, status)
}

func (b *brokenAdapter) GetPullStatus(pull models.PullRequest) (*models.PullStatus, error) {
	if b.getPullStatus != nil {
		return b.getPullStatus(pull)
	}
	return b.LockingAdapter.GetPullStatus(pull)
}

func (b *brokenAdapter) DeletePullStatus(pull models.PullRequest) error {
	if b.deletePullStatus != nil {
		return b.deletePullStatus(pull)
	}
	return b.LockingAdapter.DeletePullStatus(pull)
}

func (b *brokenAdapter) UpdatePullWithResults(pull models.PullRequest, results []command.ProjectResult) (models.PullStatus, error) {
	if b.updatePull != nil {
		return b.updatePull(pull, results)
	}
	return b.LockingAdapter.UpdatePullWithResults(pull, results)
}

func (b *brokenAdapter) LockCommand(name command.Name, at time.Time) (*command.Lock, error) {
	if b.lockCommand != nil {
		return b.lockCommand(name, at)
	}
	return b.LockingAdapter.LockCommand(name, at)
}

func (b *brokenAdapter) UnlockCommand(name command.Name) error {
	if b.unlockCommand != nil {
		return b.unlockCommand(name)
	}
	return b.LockingAdapter.UnlockCommand(name)
}

func (b *brokenAdapter) CheckCommandLock(name command.Name) (*command.Lock, error) {
	if b.checkCommandLock != nil {
		return b.checkCommandLock(name)
	}
	return b.LockingAdapter.CheckCommandLock(name)
}

func (b *brokenAdapter) Ping() error {
	if b.ping != nil {
		return b.ping()
	}
	return b.LockingAdapter.Ping()
}

// Each way to be broken is found, by the check that is there for it, and leaves
// nothing behind.
func TestBrokenAdaptersAreFound(t *testing.T) {
	t.Parallel()
	failed := errors.New("broken on purpose")
	for name, c := range map[string]struct {
		check string
		brk   func(b *brokenAdapter, a *enhanced.LockingAdapter)
	}{
		"a try that fails":     {"lock and unlock", func(b *brokenAdapter, _ *enhanced.LockingAdapter) { b.tryLock = failingTry(failed) }},
		"a holder that is not": {"lock and unlock", func(b *brokenAdapter, a *enhanced.LockingAdapter) { b.tryLock = forgetfulTry(a) }},
		"an unlock that does nothing": {"lock and unlock", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.unlock = func(p models.Project, w string) (*models.ProjectLock, error) { return a.GetLock(p, w) }
		}},
		"an unlock that answers nothing": {"lock and unlock", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.unlock = func(p models.Project, w string) (*models.ProjectLock, error) {
				_, err := a.Unlock(p, w)
				return nil, err
			}
		}},
		"an unlock of another's": {"lock and unlock", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.unlockIfOwnedByPull = func(p models.Project, w string, _ int) (*models.ProjectLock, error) { return a.Unlock(p, w) }
		}},
		"a lock that is not found": {"lock and unlock", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.getLock = func(models.Project, string) (*models.ProjectLock, error) { return nil, nil }
		}},
		"a look, then a write": {"concurrency", func(b *brokenAdapter, a *enhanced.LockingAdapter) { b.tryLock = racingTry(a) }},
		"a close of the sibling, too": {"unlock by pull request", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.unlockByPull = func(repository string, number int) ([]models.ProjectLock, error) {
				return closeByPrefix(a, repository, number)
			}
		}},
		"a close that leaves the rest": {"unlock by pull request", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.unlockByPull = func(repository string, number int) ([]models.ProjectLock, error) {
				locks, err := a.UnlockByPull(repository, number)
				if len(locks) > 1 {
					_, _, err = a.TryLock(locks[0])
				}
				return locks, err
			}
		}},
		"a list that lacks one": {"list", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.list = func() ([]models.ProjectLock, error) {
				locks, err := a.List()
				return slices.DeleteFunc(locks, func(l models.ProjectLock) bool { return l.Workspace == "staging" }), err
			}
		}},
		"a list with one twice": {"list", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.list = func() ([]models.ProjectLock, error) {
				locks, err := a.List()
				return append(locks, locks...), err
			}
		}},
		"a list of the wrong": {"list", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.list = func() ([]models.ProjectLock, error) {
				locks, err := a.List()
				for i := range locks {
					locks[i].Pull.Num++
				}
				return locks, err
			}
		}},
		"a status that stays": {"pull status", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.updateProjectStatus = func(models.PullRequest, string, string, models.ProjectPlanStatus) error { return nil }
		}},
		"a status that is lost": {"pull status", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.updatePull = func(models.PullRequest, []command.ProjectResult) (models.PullStatus, error) {
				return models.PullStatus{}, nil
			}
		}},
		"a status that is not deleted": {"pull status", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.deletePullStatus = func(models.PullRequest) error { return nil }
		}},
		"a status that fails": {"pull status", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.getPullStatus = func(models.PullRequest) (*models.PullStatus, error) { return nil, failed }
		}},
		"a command locked twice": {"command locks", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.lockCommand = func(n command.Name, at time.Time) (*command.Lock, error) {
				if lock, err := a.LockCommand(n, at); err == nil {
					return lock, nil
				}
				return a.CheckCommandLock(n)
			}
		}},
		"a command that stays locked": {"command locks", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.unlockCommand = func(command.Name) error { return nil }
		}},
		"a command that is never locked": {"command locks", func(b *brokenAdapter, _ *enhanced.LockingAdapter) {
			b.checkCommandLock = func(command.Name) (*command.Lock, error) { return nil, nil }
		}},
		"an apply lock that can't be read": {"command locks", func(b *brokenAdapter, a *enhanced.LockingAdapter) {
			b.checkCommandLock = func(n command.Name) (*command.Lock, error) {
				if n == command.Apply {
					return nil, failed
				}
				return a.CheckCommandLock(n)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			adapter := newBoltAdapter(t, compatibilityConfig(false), nil)
			unchanged := inUse(t, adapter)
			b := &brokenAdapter{LockingAdapter: adapter}
			c.brk(b, adapter)
			report, err := enhanced.NewCompatibilityChecker(b, nil).RunCompatibilityTest(t.Context())
			require.NoError(t, err)
			require.False(t, report.Success)
			require.Equal(t, enhanced.CompatibilityFailed, results(report)[c.check], "%+v", report)
			for _, check := range report.Checks {
				passed := check.Result == enhanced.CompatibilityPassed
				require.Equal(t, passed, check.Remedy == "", "%+v", check)
				require.Equal(t, passed, check.Detail == "", "%+v", check)
			}
			require.NotContains(t, results(report), "clean up")
			unchanged()
		})
	}
}

func failingTry(failed error) func(models.ProjectLock) (bool, models.ProjectLock, error) {
	return func(models.ProjectLock) (bool, models.ProjectLock, error) { return false, models.ProjectLock{}, failed }
}

// forgetfulTry answers with the caller's own lock who it is that has it.
func forgetfulTry(a *enhanced.LockingAdapter) func(models.ProjectLock) (bool, models.ProjectLock, error) {
	return func(lock models.ProjectLock) (bool, models.ProjectLock, error) {
		acquired, _, err := a.TryLock(lock)
		return acquired, lock, err
	}
}

// racingTry is stock's on Redis: it looks, and then takes what it has seen free.
func racingTry(a *enhanced.LockingAdapter) func(models.ProjectLock) (bool, models.ProjectLock, error) {
	var mu sync.Mutex
	looked := make(map[string]chan struct{})
	// Two are to look before one writes. Somebody who is alone does not wait for long.
	second := func(key string) <-chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		met := looked[key]
		if met == nil {
			met = make(chan struct{})
			looked[key] = met
		} else {
			close(met)
			delete(looked, key)
		}
		return met
	}
	return func(lock models.ProjectLock) (bool, models.ProjectLock, error) {
		current, err := a.GetLock(lock.Project, lock.Workspace)
		if err != nil {
			return false, models.ProjectLock{}, err
		}
		if current != nil {
			return false, *current, nil
		}
		select {
		case <-second(models.GenerateLockKey(lock.Project, lock.Workspace)):
		case <-time.After(50 * time.Millisecond):
		}
		_, _, err = a.TryLock(lock)
		return true, lock, err
	}
}

// closeByPrefix is stock's: the names of other repositories start alike.
func closeByPrefix(a *enhanced.LockingAdapter, repository string, number int) (closed []models.ProjectLock, err error) {
	closed, err = a.UnlockByPull(repository, number)
	locks, listErr := a.List()
	err = errors.Join(err, listErr)
	for _, lock := range locks {
		if strings.HasPrefix(lock.Project.RepoFullName, repository) && lock.Pull.Num == number {
			_, unlockErr := a.Unlock(lock.Project, lock.Workspace)
			err = errors.Join(err, unlockErr)
		}
	}
	return closed, err
}

// deaf is stock's database without one of its readings or writings.
type deaf struct {
	db.Database
	try, get, unlock bool
}

func (d deaf) TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error) {
	if d.try {
		return true, lock, nil // and keeps nothing
	}
	return d.Database.TryLock(lock)
}

func (d deaf) GetLock(project models.Project, workspace string) (*models.ProjectLock, error) {
	if d.get {
		return nil, nil
	}
	return d.Database.GetLock(project, workspace)
}

func (d deaf) Unlock(project models.Project, workspace string) (*models.ProjectLock, error) {
	if d.unlock {
		return d.Database.GetLock(project, workspace)
	}
	return d.Database.Unlock(project, workspace)
}

// A legacy database that has not the same locks is found, whichever side does
// not see the other.
func TestStrangeLegacyDatabasesAreFound(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]deaf{"its locks": {try: true}, "our locks": {get: true}, "its unlocks": {unlock: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			adapter := newBoltAdapter(t, compatibilityConfig(false), func(stock db.Database) db.Database {
				d.Database = stock
				return d
			})
			report, err := enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(t.Context())
			require.NoError(t, err)
			require.Equal(t, map[string]string{"legacy format": enhanced.CompatibilityFailed}, results(report))
		})
	}
}
