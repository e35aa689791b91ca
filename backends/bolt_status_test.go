package backends_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func planned(path string) []command.ProjectResult {
	return []command.ProjectResult{{
		Command: command.Plan, RepoRelDir: path, Workspace: "default",
		ProjectCommandOutput: command.ProjectCommandOutput{PlanSuccess: &models.PlanSuccess{}},
	}}
}

// While somebody else writes to the file, what writes ends with the operation
// timeout, and what reads is not delayed.
func TestStatusWaitsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.OperationTimeout = 20 * time.Millisecond
	s := open(t, fill(t), config)
	pull := stockLock("org/app", 5, ".").Pull
	busy, err := s.db.Begin(true)
	require.NoError(t, err)
	for name, call := range map[string]func() error{
		"UpdatePullWithResults": func() error { _, err := s.ours.UpdatePullWithResults(pull, planned(".")); return err },
		"UpdateProjectStatus": func() error {
			return s.ours.UpdateProjectStatus(pull, "default", ".", models.AppliedPlanStatus)
		},
		"DeletePullStatus": func() error { return s.ours.DeletePullStatus(pull) },
		"LockCommand":      func() error { _, err := s.ours.LockCommand(command.Apply, time.Now()); return err },
		"UnlockCommand":    func() error { return s.ours.UnlockCommand(command.Apply) },
	} {
		require.ErrorIs(t, inTime(t, name, call), enhanced.ErrTimeout, name)
	}
	// On a busy machine a read takes as long by itself.
	require.NoError(t, s.ours.UpdateConfiguration(enhanced.DefaultConfig()))
	for name, call := range map[string]func() error{
		"GetPullStatus":    func() error { _, err := s.ours.GetPullStatus(pull); return err },
		"CheckCommandLock": func() error { _, err := s.ours.CheckCommandLock(command.Apply); return err },
	} {
		require.NoError(t, inTime(t, name, call), name)
	}
	require.NoError(t, busy.Rollback())
}

// inTime fails the test when a call does not return.
func inTime(t *testing.T, name string, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not return", name)
		return nil
	}
}

// A status that can't be read is replaced, and no update is lost over that.
func TestStatusUpdatesRaceOverAnUnreadableOne(t *testing.T) {
	t.Parallel()
	const writers = 4
	pull := stockLock("org/app", 5, ".").Pull
	for range backendtest.Rounds(400) {
		s := open(t, filepath.Join(t.TempDir(), "atlantis.db"), nil)
		s.db.NoSync = true
		require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("pulls")).Put([]byte("github.com::org/app::5"), []byte("{"))
		}))
		backendtest.Together(writers, func(i int) {
			if _, err := s.ours.UpdatePullWithResults(pull, planned(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		})
		status, err := s.ours.GetPullStatus(pull)
		require.NoError(t, err)
		require.Len(t, status.Projects, writers)
	}
}

func TestAnUnreadableStatusIsNamedWithoutItsContent(t *testing.T) {
	t.Parallel()
	s := open(t, fill(t), nil)
	pull := stockLock("org/app", 5, ".").Pull
	require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(
			tx.Bucket([]byte("pulls")).Put([]byte("github.com::org/app::5"), []byte(`{"Pull":{"Num":1`+secret)),
			tx.Bucket([]byte("globalLocks")).Put([]byte("apply/lock"), []byte(`{"CommandName":1`+secret)),
		)
	}))
	_, err := s.ours.GetPullStatus(pull)
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
	require.ErrorContains(t, err, `"github.com::org/app::5"`)
	require.NotContains(t, err.Error(), secret)
	require.ErrorIs(t, s.ours.UpdateProjectStatus(pull, "default", ".", models.AppliedPlanStatus), enhanced.ErrCorruptRecord)
	_, err = s.ours.CheckCommandLock(command.Apply)
	require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
	require.NotContains(t, err.Error(), secret)
	_, err = s.ours.LockCommand(command.Apply, time.Now())
	require.ErrorIs(t, err, enhanced.ErrLockExists, "it counts as taken")
	require.NoError(t, s.ours.DeletePullStatus(pull))
	status, err := s.ours.GetPullStatus(pull)
	require.NoError(t, err)
	require.Nil(t, status)
}

// A token that stock has stored with a status is never returned, and is gone
// after the next write; stock reads what is left.
func TestStocksTokenLeavesItsStatus(t *testing.T) {
	t.Parallel()
	pull := stockLock("org/app", 5, ".").Pull
	for name, write := range map[string]func(t *testing.T, s *opened) models.PullStatus{
		"UpdateProjectStatus": func(t *testing.T, s *opened) models.PullStatus {
			require.NoError(t, s.ours.UpdateProjectStatus(pull, "default", "a", models.AppliedPlanStatus))
			return *must(s.ours.GetPullStatus(pull))
		},
		"UpdateProjectStatus of no project": func(t *testing.T, s *opened) models.PullStatus {
			require.NoError(t, s.ours.UpdateProjectStatus(pull, "default", "none", models.AppliedPlanStatus))
			return *must(s.ours.GetPullStatus(pull))
		},
		"UpdatePullWithResults": func(t *testing.T, s *opened) models.PullStatus {
			return must(s.ours.UpdatePullWithResults(pull, planned("a")))
		},
		"UpdatePullWithResults of a new commit": func(t *testing.T, s *opened) models.PullStatus {
			next := pull
			next.HeadCommit = "next"
			return must(s.ours.UpdatePullWithResults(next, planned("a")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "atlantis.db")
			stock, err := boltdb.New(filepath.Dir(path))
			require.NoError(t, err)
			_, err = stock.UpdatePullWithResults(pull, planned("a"))
			require.NoError(t, err)
			require.NoError(t, stock.Close())

			s := open(t, path, nil)
			require.True(t, s.pullsHold(t, secret), "stock's fault")
			seen, err := s.ours.GetPullStatus(pull)
			require.NoError(t, err)
			require.NotContains(t, string(mustJSON(seen)), secret)
			written := write(t, s)
			require.NotContains(t, string(mustJSON(written)), secret)
			require.False(t, s.pullsHold(t, secret))
			same, err := s.stock.GetPullStatus(pull)
			require.NoError(t, err)
			require.Equal(t, written, *same, "stock reads it")
		})
	}
}

// pullsHold reports whether a text is in stock's statuses.
func (s *opened) pullsHold(t *testing.T, text string) (found bool) {
	t.Helper()
	require.NoError(t, s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("pulls")).ForEach(func(_, value []byte) error {
			found = found || bytes.Contains(value, []byte(text))
			return nil
		})
	}))
	return found
}

// cursors counts the work of a call in cursors of bbolt: each look-up makes one.
func (s *opened) cursors(t *testing.T, call func() error) int64 {
	t.Helper()
	before := s.db.Stats()
	require.NoError(t, call())
	after := s.db.Stats()
	difference := after.Sub(&before)
	return difference.TxStats.GetCursorCount()
}

// releaseFive takes 5 locks of a pull request, writes what a run of Atlantis
// does, and counts the work of releasing the 5.
func (s *opened) releaseFive(t *testing.T, repo string, write func(pull models.PullRequest) error) int64 {
	t.Helper()
	for i := range 5 {
		_, err := s.ours.AcquireLock(t.Context(), request(stockLock(repo, 5, "mine"+strconv.Itoa(i))))
		require.NoError(t, err)
	}
	require.NoError(t, write(stockLock(repo, 5, ".").Pull))
	return s.cursors(t, func() error {
		released, err := s.ours.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
		require.Len(t, released, 5)
		return err
	})
}

// runWrites are what a run of Atlantis writes beside locks.
func (s *opened) runWrites() map[string]func(models.PullRequest) error {
	return map[string]func(models.PullRequest) error{
		"nothing": func(models.PullRequest) error { return nil },
		"a status": func(pull models.PullRequest) error {
			_, err := s.ours.UpdatePullWithResults(pull, planned("."))
			return err
		},
		"a command's lock": func(models.PullRequest) error {
			_, err := s.ours.LockCommand(command.Apply, time.Now())
			return err
		},
	}
}

func manyLocks(t *testing.T, locks, repositories int) *opened {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "atlantis.db"), nil)
	s.db.NoSync = true
	hold(t, s.ours, locks, repositories)
	return s
}

// Unlock-by-pull does not do more where other repositories hold more locks,
// whoever wrote to the file before: 100 and 100,000 of them by make test-all.
func TestReleaseByPullDoesNotLookAtOtherRepositories(t *testing.T) {
	t.Parallel()
	work := make(map[string][]int64)
	for _, held := range []int{100, backendtest.Rounds(100_000)} {
		s := manyLocks(t, held, 100)
		writes := s.runWrites()
		writes["a status in a legacy database on the file"] = func(pull models.PullRequest) error {
			_, err := s.stock.UpdatePullWithResults(pull, planned("."))
			return err
		}
		for name, write := range writes {
			work[name] = append(work[name], s.releaseFive(t, "org/app", write))
		}
		s.close(t)
	}
	for name, cursors := range work {
		require.Positive(t, cursors[0])
		require.LessOrEqual(t, cursors[1], 2*cursors[0], "%s: %v", name, cursors)
	}
}

// Nor does it look at the locks of other pull requests in its own repository,
// unless somebody else has written to the file: 100 and 100,000 of them by make
// test-all. Not parallel: allocations are those of the whole process.
func TestReleaseByPullDoesNotLookAtOtherPullRequests(t *testing.T) { //nolint:paralleltest // see above
	cursors, allocated := make(map[string][]int64), make(map[string][]int64)
	for _, held := range []int{100, backendtest.Rounds(100_000)} {
		s := manyLocks(t, held, 1)
		s.releaseFive(t, "org/held0", func(models.PullRequest) error { return nil }) // the first look at a repository compares it
		for name, write := range s.runWrites() {
			var counted int64
			allocated[name] = append(allocated[name], allocations(func() { counted = s.releaseFive(t, "org/held0", write) }))
			cursors[name] = append(cursors[name], counted)
		}
		s.close(t)
	}
	for name := range cursors {
		require.Positive(t, cursors[name][0])
		require.LessOrEqual(t, cursors[name][1], 2*cursors[name][0], "%s: %v", name, cursors)
		// bbolt's tree is deeper. A look at each of 5,000 locks makes it 8 times as many.
		require.LessOrEqual(t, allocated[name][1], 3*allocated[name][0], "%s: %v", name, allocated)
	}
}

// allocations counts the objects that the process makes in a call. One cursor
// can go over all locks, but none is decoded without an object.
func allocations(call func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	call()
	runtime.ReadMemStats(&after)
	return int64(after.Mallocs - before.Mallocs) //nolint:gosec // a difference of counters
}

// What this backend writes beside locks leaves it sure of stock's: no look at
// them is needed after it.
func TestAStatusLeavesTheStoreClean(t *testing.T) {
	t.Parallel()
	work := make(map[string][]int64)
	for _, held := range []int{100, 1000} {
		s := manyLocks(t, held, 1)
		nothing := func(models.PullRequest) error { return nil }
		s.releaseFive(t, "org/held0", nothing) // the first look at a repository compares it
		for name, write := range s.runWrites() {
			work[name] = append(work[name], s.releaseFive(t, "org/held0", write))
		}
		list := func() error { _, err := s.ours.ListLocks(t.Context()); return err }
		require.NoError(t, list())
		before := s.cursors(t, list)
		_, err := s.ours.UpdatePullWithResults(stockLock("org/app", 5, ".").Pull, planned("."))
		require.NoError(t, err)
		require.Equal(t, before, s.cursors(t, list))
		_, err = s.stock.UpdatePullWithResults(stockLock("org/app", 5, ".").Pull, planned("."))
		require.NoError(t, err)
		require.Greater(t, s.cursors(t, list), before, "somebody else's write is looked at")
		s.close(t)
	}
	for name, cursors := range work {
		require.LessOrEqual(t, cursors[1], 2*cursors[0], "%s: %v", name, cursors)
	}
}
