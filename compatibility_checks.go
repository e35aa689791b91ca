package enhanced

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

const (
	checkAnswers = "answers"

	// raceRounds and raceCallers are enough for a look and then a write in two
	// steps: nine in ten of such rounds have two winners.
	raceRounds  = 10
	raceCallers = 8
	// statusPull is the number of the pull request that has a status.
	statusPull = 90
	// commandWait is how long another test may have the lock of a command, and
	// commandStale how old that is which a test left that was killed.
	commandWait  = 5 * time.Second
	commandStale = 10 * time.Minute
)

// checks returns all checks. Each has pull requests and projects of its own.
func (r *compatibilityRun) checks() []compatibilityTry {
	checks := []compatibilityTry{
		{checkAnswers, "see that the store runs and can be reached; the detail says what it answers", r.database.Ping},
		{"lock and unlock", "do not use it: Atlantis' plans could not be locked or unlocked", r.lockAndUnlock},
		{"concurrency", "do not use it: two pull requests could apply to one project at once", r.concurrency},
		{"unlock by pull request", "do not use it: closing a pull request would leave locks or end another's", r.unlockByPull},
		{"list", "do not use it: Atlantis' page of locks would be wrong", r.list},
	}
	if r.adapter != nil && r.adapter.legacy != nil {
		checks = append(checks, compatibilityTry{
			"legacy format",
			"stock Atlantis must not run on the legacy database beside this. To have both, use one bbolt file or one Redis " +
				"for both, not a cluster, with preserve_legacy_format: true; else stop Atlantis, import its locks, and " +
				"go on without a legacy database", r.legacyFormat,
		})
	}
	return append(checks,
		compatibilityTry{"pull status", "do not use it: Atlantis would forget which projects are planned and applied", r.pullStatus},
		compatibilityTry{"command locks", "do not use it: applies could not be disabled, or stay so", r.commandLocks},
	)
}

func (r *compatibilityRun) lockAndUnlock() error {
	d := r.database
	one, two := scratchPull{r.repository, 1}, scratchPull{r.repository, 2}
	alone := r.lock(one, "alone", "", "default")
	mine, other := r.lock(one, "envs/prod", "web", "default"), r.lock(two, "envs/prod", "web", "default")
	return inOrder(
		func() error { return wantHolder(d, alone, 0) },
		func() error { return r.wantLocked(d, alone, true, 1) },
		func() error { return r.wantLocked(d, alone, false, 1) },
		func() error { return wantHolder(d, alone, 1) },
		func() error {
			lock, err := d.Unlock(alone.Project, alone.Workspace)
			return wantReleased("Unlock", lock, err, 1)
		},
		func() error { return wantHolder(d, alone, 0) },
		func() error {
			lock, err := d.Unlock(alone.Project, alone.Workspace)
			return wantReleased("Unlock of what is not locked", lock, err, 0)
		},
		func() error { return r.wantLocked(d, mine, true, 1) },
		func() error { return r.wantLocked(d, other, false, 1) },
		func() error {
			lock, err := d.UnlockIfOwnedByPull(other.Project, other.Workspace, 2)
			return wantReleased("UnlockIfOwnedByPull of another pull request", lock, err, 0)
		},
		func() error { return wantHolder(d, mine, 1) },
		func() error {
			lock, err := d.Unlock(mine.Project, mine.Workspace)
			return wantReleased("Unlock", lock, err, 1)
		},
		// With the queue on it is handed over, and this claims it.
		func() error { return r.wantLocked(d, other, true, 2) },
		func() error {
			lock, err := d.UnlockIfOwnedByPull(other.Project, other.Workspace, 2)
			return wantReleased("UnlockIfOwnedByPull", lock, err, 2)
		},
		func() error { return wantHolder(d, other, 0) },
	)
}

// concurrency has several pull requests try one lock at once. Exactly one gets
// it, and the others are told which.
func (r *compatibilityRun) concurrency() error {
	type answer struct {
		acquired bool
		holder   int
		err      error
	}
	for round := range raceRounds {
		if err := r.ctx.Err(); err != nil {
			return skipped("%v", err)
		}
		answers := make([]answer, raceCallers)
		// Nobody is in two rounds: who holds one lock and waits for another can be in
		// a deadlock.
		first := 100 + round*raceCallers
		start := make(chan struct{})
		var callers sync.WaitGroup
		for i := range answers {
			lock := r.lock(scratchPull{r.repository, first + i}, fmt.Sprintf("race/%d", round), "", "default")
			callers.Go(func() {
				<-start
				acquired, current, err := r.database.TryLock(lock)
				answers[i] = answer{acquired, current.Pull.Num, err}
			})
		}
		close(start)
		callers.Wait()
		winner := 0
		for i, a := range answers {
			switch {
			case a.err != nil:
				return fmt.Errorf("TryLock: %w", a.err)
			case a.acquired && winner != 0:
				return found("pull requests %d and %d got one lock, in round %d of %d", winner, first+i, round+1, raceRounds)
			case a.acquired:
				winner = first + i
			}
		}
		if winner == 0 {
			return found("none of %d pull requests got a free lock", raceCallers)
		}
		for i, a := range answers {
			if a.holder != winner {
				return found("pull request %d has the lock, and %d is told that %d has it", winner, first+i, a.holder)
			}
		}
	}
	return nil
}

// unlockByPull ends all locks of one pull request: not those of another one, nor
// those of the same number in a repository whose name starts alike.
func (r *compatibilityRun) unlockByPull() error {
	d := r.database
	mine, other, sibling := scratchPull{r.repository, 30}, scratchPull{r.repository, 31}, scratchPull{r.sibling(), 30}
	locks := []models.ProjectLock{
		r.lock(mine, "by-pull", "", "default"), r.lock(mine, "by-pull", "", "staging"), r.lock(mine, "by-pull/a/b", "web", "default"),
	}
	kept := []models.ProjectLock{r.lock(other, "by-pull/c", "", "default"), r.lock(sibling, "by-pull", "", "default")}
	for _, lock := range append(locks[:len(locks):len(locks)], kept...) {
		if err := r.wantLocked(d, lock, true, lock.Pull.Num); err != nil {
			return err
		}
	}
	released, err := d.UnlockByPull(mine.repository, mine.number)
	switch {
	case err != nil:
		return fmt.Errorf("UnlockByPull: %w", err)
	case len(released) != len(locks):
		return found("UnlockByPull answers %d locks; the pull request had %d", len(released), len(locks))
	}
	for _, lock := range locks {
		if err := wantHolder(d, lock, 0); err != nil {
			return err
		}
	}
	for _, lock := range kept {
		if err := wantHolder(d, lock, lock.Pull.Num); err != nil {
			return fmt.Errorf("after UnlockByPull of %s, %d, of a lock in %s: %w", mine.repository, mine.number, lock.Project.RepoFullName, err)
		}
	}
	return nil
}

// list compares what stands in the list with what was locked.
func (r *compatibilityRun) list() error {
	pull, sibling := scratchPull{r.repository, 40}, scratchPull{r.sibling(), 41}
	want := []models.ProjectLock{
		r.lock(pull, ".", "", "default"), r.lock(pull, "list/a b", "", "default"), r.lock(pull, "list/deep/er", "web", "staging"),
		r.lock(sibling, "list", "", "default"),
	}
	for _, lock := range want {
		if err := r.wantLocked(r.database, lock, true, lock.Pull.Num); err != nil {
			return err
		}
	}
	all, err := r.database.List()
	if err != nil {
		return fmt.Errorf("List: %w", err)
	}
	for _, lock := range want {
		if n := countLike(all, lock); n != 1 {
			return found("List has the lock of pull request %d on %s %d times, or with other content; it should be there once",
				lock.Pull.Num, ProjectResource(lock.Project, lock.Workspace), n)
		}
	}
	return nil
}

// countLike counts the locks that are the same to Atlantis.
func countLike(locks []models.ProjectLock, want models.ProjectLock) (n int) {
	for _, lock := range locks {
		if lock.Project == want.Project && lock.Workspace == want.Workspace && lock.Pull.Num == want.Pull.Num &&
			lock.Pull.BaseRepo.FullName == want.Pull.BaseRepo.FullName && lock.User.Username == want.User.Username && lock.Time.Equal(want.Time) {
			n++
		}
	}
	return n
}

// legacyFormat has stock Atlantis' own database and this one work on the same
// locks by turns.
func (r *compatibilityRun) legacyFormat() error {
	d, legacy := r.database, r.adapter.legacy
	stock := func(err error) error {
		if err != nil {
			return fmt.Errorf("the legacy database: %w", err)
		}
		return nil
	}
	one := r.lock(scratchPull{r.repository, 50}, "legacy", "web", "default")
	two := r.lock(scratchPull{r.repository, 51}, "legacy", "web", "default")
	three := r.lock(scratchPull{r.repository, 52}, "legacy", "web", "default")
	listed := func(database db.Database, want models.ProjectLock) error {
		all, err := database.List()
		if err == nil && countLike(all, want) != 1 {
			err = found("List lacks the lock of pull request %d, or has it with other content", want.Pull.Num)
		}
		return err
	}
	return inOrder(
		// What stock locks is locked here.
		func() error { return stock(r.wantLocked(legacy, one, true, 50)) },
		func() error { return wantHolder(d, one, 50) },
		func() error { return listed(d, one) },
		func() error { return r.wantLocked(d, two, false, 50) },
		// What stock unlocks is free here.
		func() error {
			lock, err := legacy.Unlock(one.Project, one.Workspace)
			return stock(wantReleased("Unlock", lock, err, 50))
		},
		func() error { return r.wantLocked(d, two, true, 51) },
		// What is locked here is locked for stock.
		func() error { return stock(wantHolder(legacy, two, 51)) },
		func() error { return stock(listed(legacy, two)) },
		func() error { return stock(r.wantLocked(legacy, three, false, 51)) },
		// What is unlocked here is free for stock.
		func() error {
			lock, err := d.Unlock(two.Project, two.Workspace)
			return wantReleased("Unlock", lock, err, 51)
		},
		func() error { return stock(wantHolder(legacy, two, 0)) },
		func() error { return stock(r.wantLocked(legacy, three, true, 52)) },
		func() error {
			lock, err := legacy.Unlock(three.Project, three.Workspace)
			return stock(wantReleased("Unlock", lock, err, 52))
		},
		func() error { return wantHolder(d, three, 0) },
	)
}

// pullStatus writes, reads and deletes the status of a pull request.
func (r *compatibilityRun) pullStatus() error {
	d, pull := r.database, scratchPull{r.repository, statusPull}.pullRequest()
	r.hasStatus = true
	read := func(want ...models.ProjectPlanStatus) error {
		status, err := d.GetPullStatus(pull)
		switch {
		case err != nil:
			return fmt.Errorf("GetPullStatus: %w", err)
		case status == nil && len(want) == 0:
			return nil
		case status == nil || len(status.Projects) != len(want):
			return found("GetPullStatus does not answer the status of %d projects that it was given", len(want))
		}
		for i, project := range status.Projects {
			if project.Status != want[i] || project.RepoRelDir != fmt.Sprint("status/", i) {
				return found("GetPullStatus answers that project %q is %v; it should be %v", project.RepoRelDir, project.Status, want[i])
			}
		}
		return nil
	}
	return inOrder(
		func() error { return read() },
		func() error {
			planned := command.ProjectResult{Command: command.Plan, RepoRelDir: "status/0", Workspace: "default"}
			planned.PlanSuccess = &models.PlanSuccess{}
			broken := command.ProjectResult{Command: command.Plan, RepoRelDir: "status/1", Workspace: "default"}
			broken.Failure = "a check"
			_, err := d.UpdatePullWithResults(pull, []command.ProjectResult{planned, broken})
			return err
		},
		func() error { return read(models.PlannedPlanStatus, models.ErroredPlanStatus) },
		func() error { return d.UpdateProjectStatus(pull, "default", "status/0", models.DiscardedPlanStatus) },
		func() error { return read(models.DiscardedPlanStatus, models.ErroredPlanStatus) },
		func() error { return d.DeletePullStatus(pull) },
		func() error { return read() },
	)
}

// commandLocks looks at the lock of apply, and takes that of a command which
// nobody asks for.
func (r *compatibilityRun) commandLocks() error {
	d := r.database
	if _, err := d.CheckCommandLock(command.Apply); err != nil {
		return fmt.Errorf("CheckCommandLock: %w", err)
	}
	if err := r.takeCommandLock(); err != nil {
		return err
	}
	lock, err := d.CheckCommandLock(scratchCommand)
	switch {
	case err != nil:
		return fmt.Errorf("CheckCommandLock: %w", err)
	case lock == nil || lock.LockMetadata.UnixTime != r.commandLock:
		return found("CheckCommandLock does not answer the lock that was taken")
	}
	if _, err := d.LockCommand(scratchCommand, time.Now()); err == nil {
		return found("LockCommand takes a lock that is taken")
	}
	if err := d.UnlockCommand(scratchCommand); err != nil {
		return fmt.Errorf("UnlockCommand: %w", err)
	}
	if lock, err := d.CheckCommandLock(scratchCommand); lock != nil || err != nil {
		return errors.Join(err, found("CheckCommandLock answers a lock that was released"))
	}
	return nil
}

// takeCommandLock waits for a test elsewhere, and ends what one left that was
// killed.
func (r *compatibilityRun) takeCommandLock() error {
	ctx, cancel := context.WithTimeout(r.ctx, commandWait)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		// Two tests are not of one second.
		at := time.Now().Add(-time.Duration(rand.IntN(60)) * time.Second)
		r.commandLock = at.Unix()
		_, err := r.database.LockCommand(scratchCommand, at)
		if err == nil {
			return nil
		}
		lock, checkErr := r.database.CheckCommandLock(scratchCommand)
		if lock == nil || checkErr != nil {
			if checkErr != nil || r.ctx.Err() != nil {
				return errors.Join(fmt.Errorf("LockCommand: %w", err), checkErr)
			}
			if ctx.Err() != nil {
				return fmt.Errorf("LockCommand: %w", err)
			}
		} else if time.Since(lock.LockTime()) > commandStale {
			if err := r.database.UnlockCommand(scratchCommand); err != nil {
				return fmt.Errorf("UnlockCommand: %w", err)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return skipped("the lock of the command %q is taken; another test may be under way", scratchCommand)
		case <-ticker.C:
		}
	}
}
