package backendtest

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// newAdapter returns an adapter in enhanced mode on a new backend.
func newAdapter(t *testing.T, newBackend NewBackend, change func(*enhanced.EnhancedConfig)) (*enhanced.LockingAdapter, enhanced.Backend) {
	t.Helper()
	config := enhanced.DefaultConfig()
	config.Enabled = true
	config.OperationTimeout = patience // a busy machine is no failure of a store
	if change != nil {
		change(config)
	}
	b := newBackend(t, config)
	manager := enhanced.NewEnhancedLockManager(b, config, nil)
	return enhanced.NewLockingAdapter(manager, b, config, nil, nil), b
}

func projectLock(host, repository string, number int, path string) models.ProjectLock {
	return models.ProjectLock{
		Project:   models.NewProject(repository, path, ""),
		Workspace: "default",
		Pull:      pull(host, repository, number),
		User:      models.User{Username: "runner"},
		Time:      time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC),
	}
}

// stored is the lock as a database gives it back.
func stored(lock models.ProjectLock) models.ProjectLock {
	lock.Pull.BaseRepo.CloneURL = ""
	lock.Time = lock.Time.Local()
	return lock
}

func testAdapter(t *testing.T, newBackend NewBackend) {
	t.Run("TryLock answers as stock does", func(t *testing.T) {
		a, _ := newAdapter(t, newBackend, nil)
		mine, other := projectLock(host, repo, 5, "."), projectLock(host, repo, 55, ".")
		acquired, lock, err := a.TryLock(mine)
		require.NoError(t, err)
		require.True(t, acquired)
		require.Equal(t, stored(mine), lock)

		acquired, lock, err = a.TryLock(mine)
		require.NoError(t, err)
		require.False(t, acquired, "its own lock is not acquired again")
		require.Equal(t, stored(mine), lock)

		acquired, lock, err = a.TryLock(other)
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, stored(mine), lock)
	})

	t.Run("a holder that Atlantis would take for the caller is an error", func(t *testing.T) {
		for name, test := range map[string]struct {
			holder *enhanced.EnhancedLockRequest
			caller models.ProjectLock
			want   string
		}{
			"same number, other host": {pullRequestOf("gitlab.com", repo, 5, "."), projectLock(host, repo, 5, "."), "gitlab.com"},
			"zero and a user":         {userRequest("alice", "."), projectLock(host, repo, 0, "."), "user alice"},
			"a number and a user":     {userRequest("alice", "."), projectLock(host, repo, 5, "."), "user alice"},
			"no host and a host":      {pullRequest(5, "."), projectLock("", repo, 5, "."), host},
			"author's user lock":      {userRequest("author", "."), projectLock(host, repo, 5, "."), "user author"},
		} {
			t.Run(name, func(t *testing.T) {
				a, b := newAdapter(t, newBackend, nil)
				test.holder.Metadata = map[string]string{enhanced.MetadataNote: "frozen until Monday"}
				acquire(t, b, test.holder)
				acquired, lock, err := a.TryLock(test.caller)
				require.ErrorIs(t, err, enhanced.ErrLockExists)
				require.ErrorContains(t, err, test.want)
				require.ErrorContains(t, err, "frozen until Monday")
				require.False(t, acquired)
				require.Zero(t, lock)
			})
		}
	})

	t.Run("locks have no lease unless one is configured", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, nil)
		_, _, err := a.TryLock(projectLock(host, repo, 5, "."))
		require.NoError(t, err)
		lock, err := b.LookupLock(t.Context(), resource("."))
		require.NoError(t, err)
		require.Nil(t, lock.ExpiresAt)

		a, b = newAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.LegacyLockTimeout = time.Hour })
		_, _, err = a.TryLock(projectLock(host, repo, 5, "."))
		require.NoError(t, err)
		lock, err = b.LookupLock(t.Context(), resource("."))
		require.NoError(t, err)
		require.Equal(t, time.Hour, lock.ExpiresAt.Sub(lock.AcquiredAt))
	})

	t.Run("Unlock and GetLock", func(t *testing.T) {
		a, _ := newAdapter(t, newBackend, nil)
		mine := projectLock(host, repo, 5, "envs/prod")
		_, _, err := a.TryLock(mine)
		require.NoError(t, err)
		lock, err := a.GetLock(mine.Project, mine.Workspace)
		require.NoError(t, err)
		require.Equal(t, stored(mine), *lock)
		lock, err = a.Unlock(mine.Project, mine.Workspace)
		require.NoError(t, err)
		require.Equal(t, stored(mine), *lock)
		for range 2 {
			lock, err = a.Unlock(mine.Project, mine.Workspace)
			require.NoError(t, err)
			require.Nil(t, lock)
		}
		lock, err = a.GetLock(mine.Project, mine.Workspace)
		require.NoError(t, err)
		require.Nil(t, lock)
	})

	t.Run("a wrong cut of the key finds the lock", func(t *testing.T) {
		// group/sub/repo with envs/prod, as stock's client cuts the key.
		real := projectLock(host, "group/sub/repo", 5, "envs/prod")
		cut := models.Project{RepoFullName: "group/sub", Path: "repo/envs/prod"}
		a, _ := newAdapter(t, newBackend, nil)
		_, _, err := a.TryLock(real)
		require.NoError(t, err)
		lock, err := a.GetLock(cut, "default")
		require.NoError(t, err)
		require.Equal(t, stored(real), *lock)
		lock, err = a.Unlock(cut, "default")
		require.NoError(t, err)
		require.Equal(t, stored(real), *lock)
	})

	t.Run("two locks with one key are refused by name", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.PreserveLegacyFormat = false })
		acquire(t, b, pullRequestOf(host, "a/b", 1, "c/d"))
		acquire(t, b, pullRequestOf(host, "a/b/c", 2, "d"))
		_, err := a.Unlock(models.Project{RepoFullName: "a", Path: "b/c/d"}, "default")
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "a/b (path c/d")
		require.ErrorContains(t, err, "a/b/c (path d")
		// The cut that holds a lock itself is taken without looking further.
		lock, err := a.Unlock(models.Project{RepoFullName: "a/b/c", Path: "d"}, "default")
		require.NoError(t, err)
		require.Equal(t, 2, lock.Pull.Num)
	})

	t.Run("UnlockIfOwnedByPull", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, nil)
		mine := projectLock(host, repo, 5, ".")
		_, _, err := a.TryLock(mine)
		require.NoError(t, err)
		acquire(t, b, userRequest("alice", "frozen"))
		for _, foreign := range []int{55, 0, -5} {
			lock, err := a.UnlockIfOwnedByPull(mine.Project, "default", foreign)
			require.NoError(t, err)
			require.Nil(t, lock)
		}
		lock, err := a.UnlockIfOwnedByPull(models.NewProject(repo, "frozen", ""), "default", 0)
		require.NoError(t, err)
		require.Nil(t, lock)
		lock, err = a.UnlockIfOwnedByPull(mine.Project, "default", 5)
		require.NoError(t, err)
		require.Equal(t, stored(mine), *lock)
		lock, err = a.UnlockIfOwnedByPull(mine.Project, "default", 5)
		require.NoError(t, err)
		require.Nil(t, lock)
	})

	t.Run("UnlockByPull and List answer in the order of stock's keys", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, nil)
		acquire(t, b, userRequest("alice", "frozen"))
		for _, path := range []string{"b", "c", "a"} {
			_, _, err := a.TryLock(projectLock(host, repo, 5, path))
			require.NoError(t, err)
		}
		locks, err := a.List()
		require.NoError(t, err)
		require.Len(t, locks, 4)
		require.IsIncreasing(t, keys(locks))
		released, err := a.UnlockByPull(repo, 5)
		require.NoError(t, err)
		require.Equal(t, []models.ProjectLock{
			stored(projectLock(host, repo, 5, "a")), stored(projectLock(host, repo, 5, "b")), stored(projectLock(host, repo, 5, "c")),
		}, released)
	})

	t.Run("Unlock and UnlockByPull can be denied", func(t *testing.T) {
		a, _ := newAdapter(t, newBackend, func(c *enhanced.EnhancedConfig) { c.DenySystemUnlock = true })
		mine := projectLock(host, repo, 5, ".")
		_, _, err := a.TryLock(mine)
		require.NoError(t, err)
		_, err = a.Unlock(mine.Project, "default")
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		_, err = a.UnlockByPull(repo, 5)
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		lock, err := a.UnlockIfOwnedByPull(mine.Project, "default", 5)
		require.NoError(t, err)
		require.NotNil(t, lock)
	})

	t.Run("pull status and command locks", func(t *testing.T) { testStatus(t, newBackend) })
}

func testStatus(t *testing.T, newBackend NewBackend) {
	a, _ := newAdapter(t, newBackend, nil)
	p := pull(host, repo, 5)
	status, err := a.GetPullStatus(p)
	require.NoError(t, err)
	require.Nil(t, status)

	updated, err := a.UpdatePullWithResults(p, []command.ProjectResult{{
		RepoRelDir: "a", Workspace: "default", Command: command.Plan,
		ProjectCommandOutput: command.ProjectCommandOutput{PlanSuccess: &models.PlanSuccess{}},
	}})
	require.NoError(t, err)
	require.Len(t, updated.Projects, 1)
	require.NoError(t, a.UpdateProjectStatus(p, "default", "a", models.DiscardedPlanStatus))
	status, err = a.GetPullStatus(p)
	require.NoError(t, err)
	require.Equal(t, models.DiscardedPlanStatus, status.Projects[0].Status)
	require.Empty(t, status.Pull.BaseRepo.CloneURL)
	require.NoError(t, a.DeletePullStatus(p))
	status, err = a.GetPullStatus(p)
	require.NoError(t, err)
	require.Nil(t, status)

	held, err := a.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.Nil(t, held)
	at := time.Now()
	_, err = a.LockCommand(command.Apply, at)
	require.NoError(t, err)
	_, err = a.LockCommand(command.Apply, at)
	require.Error(t, err)
	held, err = a.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.Equal(t, at.Unix(), held.LockMetadata.UnixTime)
	require.NoError(t, a.UnlockCommand(command.Apply))
	require.Error(t, a.UnlockCommand(command.Apply))
	require.NoError(t, a.Ping())
}

func keys(locks []models.ProjectLock) []string {
	result := make([]string, len(locks))
	for i, lock := range locks {
		result[i] = models.GenerateLockKey(lock.Project, lock.Workspace)
	}
	return result
}
