// Package tests holds tests of the whole system against real stores, beside
// stock Atlantis.
package tests

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/events/vcs/bitbucketcloud"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// The faults of stock Atlantis' locking that show on bbolt, each on stock and
// on ours. Where Atlantis' own calls can still cause one, the test says so.

// boltStore is a bbolt file with stock or ours on it.
type boltStore struct {
	db.Database
	path  string
	close func()
}

func stockBolt(t *testing.T, dir string) *boltStore {
	t.Helper()
	stock, err := boltdb.New(dir)
	require.NoError(t, err)
	return &boltStore{stock, filepath.Join(dir, "atlantis.db"), func() { require.NoError(t, stock.Close()) }}
}

func oursBolt(t *testing.T, dir string) *boltStore {
	t.Helper()
	path := filepath.Join(dir, "atlantis.db")
	file, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.Enabled = true
	backend, err := backends.NewBoltBackend(file, config, nil)
	require.NoError(t, err)
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, nil, nil)
	return &boltStore{adapter, path, func() {
		require.NoError(t, adapter.Close())
		require.NoError(t, file.Close())
	}}
}

const (
	project = "org/app"
	token   = "ghp_FAULTS_SECRET_TOKEN"
)

func lockOf(repository string, number int, path string) models.ProjectLock {
	return models.ProjectLock{
		Project:   models.NewProject(repository, path, ""),
		Workspace: "default",
		User:      models.User{Username: "runner"},
		Time:      time.Now(),
		Pull: models.PullRequest{Num: number, BaseRepo: models.Repo{
			FullName: repository,
			CloneURL: "https://bot:" + token + "@github.com/" + repository + ".git",
			VCSHost:  models.VCSHost{Hostname: "github.com", Type: models.Github},
		}},
	}
}

func take(t *testing.T, database db.Database, lock models.ProjectLock) {
	t.Helper()
	acquired, _, err := database.TryLock(lock)
	require.NoError(t, err)
	require.True(t, acquired)
}

// both runs a test on stock and on ours, each on a store of its own.
func both(t *testing.T, test func(t *testing.T, s *boltStore, ours bool)) {
	t.Helper()
	for name, open := range map[string]func(*testing.T, string) *boltStore{"stock": stockBolt, "ours": oursBolt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir())
			test(t, s, name == "ours")
			s.close()
		})
	}
}

func TestFaultSiblingRepositoryIsUnlocked(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *boltStore, ours bool) {
		take(t, s, lockOf("org/app-prod", 5, "."))
		_, err := s.UnlockByPull("org/app", 5)
		require.NoError(t, err)
		lock, err := s.GetLock(models.NewProject("org/app-prod", ".", ""), "default")
		require.NoError(t, err)
		require.Equal(t, ours, lock != nil)
	})
}

func TestFaultRecordsHoldTheToken(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *boltStore, ours bool) {
		lock := lockOf(project, 5, ".")
		take(t, s, lock)
		_, err := s.UpdatePullWithResults(lock.Pull, nil)
		require.NoError(t, err)
		content, err := os.ReadFile(s.path)
		require.NoError(t, err)
		require.Equal(t, !ours, bytes.Contains(content, []byte(token)))
	})
}

func TestFaultLateUnlockRemovesTheNextOwnersLock(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *boltStore, ours bool) {
		client := locking.NewClient(s)
		first := lockOf(project, 5, ".")
		take(t, s, first)
		key := models.GenerateLockKey(first.Project, first.Workspace)
		_, err := client.Unlock(key)
		require.NoError(t, err)
		take(t, s, lockOf(project, 6, "."))
		if adapter, ok := s.Database.(*enhanced.LockingAdapter); ok {
			// Our calls name who unlocks, or which grant, and are refused.
			_, err := adapter.Manager().Unlock(t.Context(), first.Project, first.Workspace, models.User{Username: "runner"})
			require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
			lock, err := s.GetLock(first.Project, first.Workspace)
			require.NoError(t, err)
			require.Equal(t, 6, lock.Pull.Num)
		}
		// Atlantis' own Unlock carries no owner: an unmodified caller can still
		// do this, on ours too, where it is logged and can be denied.
		late, err := client.Unlock(key)
		require.NoError(t, err)
		require.Equal(t, 6, late.Pull.Num)
	})
}

func TestFaultReplanGivesTheLockAway(t *testing.T) {
	t.Parallel()
	// With the queue off our methods are stock's: an unmodified caller that
	// unlocks to lock again can lose the lock in between.
	both(t, func(t *testing.T, s *boltStore, _ bool) {
		lock := lockOf(project, 5, ".")
		take(t, s, lock)
		_, err := s.UnlockIfOwnedByPull(lock.Project, lock.Workspace, 5)
		require.NoError(t, err)
		take(t, s, lockOf(project, 6, "."))
	})
}

func projectLocker(s *boltStore) *events.DefaultProjectLocker {
	return &events.DefaultProjectLocker{
		Locker:     locking.NewClient(s),
		NoOpLocker: locking.NewNoOpLocker(),
		VCSClient:  bitbucketcloud.New(http.DefaultClient, "", "", "", "https://atlantis.invalid"),
	}
}

func TestFaultEqualNumberOfAnotherHostIsTheOwner(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *boltStore, ours bool) {
		locker := projectLocker(s)
		holder, caller := lockOf(project, 5, "."), lockOf(project, 5, ".")
		caller.Pull.BaseRepo.VCSHost = models.VCSHost{Hostname: "gitlab.com", Type: models.Gitlab}
		take(t, s, holder)
		response, err := locker.TryLock(logging.NewNoopLogger(t), caller.Pull, caller.User, "default", caller.Project, true)
		if ours {
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			return
		}
		require.NoError(t, err)
		require.True(t, response.LockAcquired, "two pull requests plan one project")
	})
}

// A run without a pull request, through Atlantis' API, has number 0, and so has
// a lock that belongs to no pull request: one that freezes a project.
func TestFaultNumberZeroIsTheOwner(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *boltStore, ours bool) {
		frozen := lockOf(project, 0, ".")
		if adapter, ok := s.Database.(*enhanced.LockingAdapter); ok {
			_, err := adapter.Manager().Lock(t.Context(), frozen.Project, frozen.Workspace, models.User{Username: "alice"})
			require.NoError(t, err)
		} else {
			frozen.Pull, frozen.User.Username = models.PullRequest{}, "alice"
			take(t, s, frozen)
		}

		caller := lockOf(project, 0, ".")
		response, err := projectLocker(s).TryLock(logging.NewNoopLogger(t), caller.Pull, caller.User, "default", caller.Project, true)
		if ours {
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			require.ErrorContains(t, err, "is locked by user alice")
		} else {
			require.NoError(t, err)
			require.True(t, response.LockAcquired, "a frozen project is planned")
		}

		released, err := s.UnlockByPull(project, 0)
		require.NoError(t, err)
		lock, err := s.GetLock(frozen.Project, frozen.Workspace)
		require.NoError(t, err)
		if ours {
			require.Empty(t, released)
			require.Equal(t, "alice", lock.User.Username)
		} else {
			require.Len(t, released, 1, "closing number 0 ends the freeze")
			require.Nil(t, lock)
		}
	})
}

func TestFaultOneUnreadableRecordStopsEverything(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, string) *boltStore{"stock": stockBolt, "ours": oursBolt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := stockBolt(t, dir)
			take(t, s, lockOf(project, 5, "good"))
			s.close()
			putRecord(t, s.path, "org/app/bad/default/", []byte(`{"Project":`))

			s = open(t, dir)
			_, listErr := s.List()
			released, unlockErr := s.UnlockByPull(project, 5)
			if name == "stock" {
				require.Error(t, listErr)
				require.Error(t, unlockErr)
			} else {
				require.NoError(t, listErr)
				require.NoError(t, unlockErr)
				require.Len(t, released, 1)
			}
			s.close()
		})
	}
}

func TestFaultNestedPathsFromBeforeProjectNames(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, string) *boltStore{"stock": stockBolt, "ours": oursBolt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := stockBolt(t, dir)
			s.close()
			value, err := json.Marshal(lockOf(project, 5, "envs/prod"))
			require.NoError(t, err)
			putRecord(t, s.path, "org/app/envs/prod/default", value)

			s = open(t, dir)
			acquired, _, err := s.TryLock(lockOf(project, 6, "envs/prod"))
			require.NoError(t, err)
			require.Equal(t, name == "stock", acquired, "granted over a lock that is held")
			s.close()
		})
	}
}

// putRecord writes into stock's bucket of a closed store.
func putRecord(t *testing.T, path, key string, value []byte) {
	t.Helper()
	file, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("runLocks")).Put([]byte(key), value)
	}))
	require.NoError(t, file.Close())
}
