package backends_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

const secret = backendtest.Credential

func stockLock(repo string, number int, path string) models.ProjectLock {
	return models.ProjectLock{
		Project:   models.NewProject(repo, path, ""),
		Workspace: "default",
		User:      models.User{Username: "runner"},
		Time:      time.Date(2026, 1, 1, 0, 0, 0, 0, time.Local),
		Pull: models.PullRequest{Num: number, Author: "author", Body: "text", BaseRepo: models.Repo{
			FullName: repo, CloneURL: "https://bot:" + secret + "@github.com/" + repo + ".git",
			VCSHost: models.VCSHost{Hostname: "github.com", Type: models.Github},
		}},
	}
}

func request(lock models.ProjectLock) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull,
		RequestedAt: lock.Time, Timeout: enhanced.NoTimeout, Priority: enhanced.PriorityNormal,
	}
}

func resourceOf(lock models.ProjectLock) enhanced.ResourceIdentifier {
	return enhanced.ProjectResource(lock.Project, lock.Workspace)
}

// fill makes a store with stock's own package, as an Atlantis leaves it.
func fill(t *testing.T, locks ...models.ProjectLock) (path string) {
	t.Helper()
	dir := t.TempDir()
	stock, err := boltdb.New(dir)
	require.NoError(t, err)
	for _, lock := range locks {
		acquired, _, err := stock.TryLock(lock)
		require.NoError(t, err)
		require.True(t, acquired)
	}
	require.NoError(t, stock.Close())
	return filepath.Join(dir, "atlantis.db")
}

// put writes a record into stock's bucket of a closed store.
func put(t *testing.T, path, key string, value []byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("runLocks")).Put([]byte(key), value)
	}))
	require.NoError(t, db.Close())
}

// opened is a store with ours and stock on one handle.
type opened struct {
	db    *bbolt.DB
	ours  *backends.BoltBackend
	stock *boltdb.BoltDB
}

func open(t *testing.T, path string, config *enhanced.EnhancedConfig) *opened {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true}) // as the program does
	require.NoError(t, err)
	ours, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	stock, err := boltdb.NewWithDB(db, "runLocks", "globalLocks")
	require.NoError(t, err)
	s := &opened{db, ours, stock}
	t.Cleanup(func() { s.close(t) })
	return s
}

func (s *opened) close(t *testing.T) {
	t.Helper()
	require.NoError(t, s.ours.Close())
	require.NoError(t, s.db.Close())
}

func TestStocksLocksAreHonouredFromTheFirstCall(t *testing.T) {
	t.Parallel()
	mine, other := stockLock("org/app", 5, "."), stockLock("org/app", 6, "a")
	s := open(t, fill(t, mine, other), nil)

	lock, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 7, ".")))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, "pr:github.com/org%2Fapp/5", lock.Owner)
	require.Positive(t, lock.Version)
	require.Nil(t, lock.ExpiresAt)
	require.True(t, lock.AcquiredAt.Equal(mine.Time))
	want := mine
	want.Pull.BaseRepo.CloneURL = ""
	require.Equal(t, want, *lock.OriginalLock)

	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 2)
	byID, err := s.ours.GetLock(t.Context(), lock.ID)
	require.NoError(t, err)
	require.Equal(t, lock, byID)

	released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 6, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.Len(t, released, 1)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
	left, err := s.stock.List()
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestStockReadsWhatWeTake(t *testing.T) {
	t.Parallel()
	path := fill(t)
	s := open(t, path, nil)
	lock := stockLock("org/app", 5, "envs/prod")
	_, err := s.ours.AcquireLock(t.Context(), request(lock))
	require.NoError(t, err)
	s.close(t)

	stock, err := boltdb.New(filepath.Dir(path))
	require.NoError(t, err)
	found, err := stock.GetLock(lock.Project, lock.Workspace)
	require.NoError(t, err)
	want := lock
	want.Pull.BaseRepo.CloneURL = ""
	require.Equal(t, want, *found)
	acquired, _, err := stock.TryLock(stockLock("org/app", 6, "envs/prod"))
	require.NoError(t, err)
	require.False(t, acquired)
	released, err := stock.UnlockByPull("org/app", 5)
	require.NoError(t, err)
	require.Len(t, released, 1)
	require.NoError(t, stock.Close())

	again := open(t, path, nil)
	_, err = again.ours.LookupLock(t.Context(), resourceOf(lock))
	require.ErrorIs(t, err, enhanced.ErrLockNotFound, "what stock released is free")
	locks, err := again.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
}

func TestStockOnTheSameHandle(t *testing.T) {
	t.Parallel()
	lock := stockLock("org/app", 5, ".")

	for name, look := range map[string]func(t *testing.T, s *opened) []string{
		"list": func(t *testing.T, s *opened) (owners []string) {
			locks, err := s.ours.ListLocks(t.Context())
			require.NoError(t, err)
			for _, l := range locks {
				require.NotEmpty(t, l.ID)
				if l.Resource.Namespace == "org/app" {
					owners = append(owners, l.Owner)
				}
			}
			return owners
		},
		"look up": func(t *testing.T, s *opened) []string {
			l, err := s.ours.LookupLock(t.Context(), resourceOf(lock))
			if err != nil {
				require.ErrorIs(t, err, enhanced.ErrLockNotFound)
				return nil
			}
			require.NotEmpty(t, l.ID)
			return []string{l.Owner}
		},
		"refused": func(t *testing.T, s *opened) []string {
			l, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 99, ".")))
			require.NoError(t, err)
			if acquired {
				require.NoError(t, s.ours.ReleaseLock(t.Context(), l.ID))
				return nil
			}
			return []string{l.Owner}
		},
		"release by pull": func(t *testing.T, s *opened) (owners []string) {
			for _, number := range []int{5, 6} {
				locks, err := s.ours.ReleaseByPull(t.Context(), "org/app", number, enhanced.SystemAtlantis)
				require.NoError(t, err)
				for _, l := range locks {
					owners = append(owners, l.Owner)
					// Stock's caller would find it gone; put it back for the next look.
					_, _, err := s.stock.TryLock(*l.OriginalLock)
					require.NoError(t, err)
				}
			}
			return owners
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, fill(t), nil)
			_, _, err := s.stock.TryLock(lock)
			require.NoError(t, err)
			// A commit of ours right after stock's does not hide it.
			_, err = s.ours.AcquireLock(t.Context(), request(stockLock("org/unrelated", 5, ".")))
			require.NoError(t, err)
			require.Equal(t, []string{"pr:github.com/org%2Fapp/5"}, look(t, s), "stock took it")

			_, err = s.stock.Unlock(lock.Project, lock.Workspace)
			require.NoError(t, err)
			require.Empty(t, look(t, s), "stock released it")

			_, err = s.ours.AcquireLock(t.Context(), request(lock))
			require.NoError(t, err)
			_, err = s.stock.Unlock(lock.Project, lock.Workspace)
			require.NoError(t, err)
			_, _, err = s.stock.TryLock(stockLock("org/app", 6, "."))
			require.NoError(t, err)
			require.Equal(t, []string{"pr:github.com/org%2Fapp/6"}, look(t, s), "stock released ours and locked it again")
		})
	}
}

func TestKeysFromBeforeProjectNames(t *testing.T) {
	t.Parallel()
	for _, path := range []string{".", "a", "a/b", "a/b/c"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			lock := stockLock("org/app", 5, path)
			value, err := json.Marshal(lock)
			require.NoError(t, err)
			file := fill(t)
			put(t, file, "org/app/"+path+"/default", value)
			s := open(t, file, nil)

			held, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 6, path)))
			require.NoError(t, err)
			require.False(t, acquired)
			require.Equal(t, "pr:github.com/org%2Fapp/5", held.Owner)
			// Stock sees it now, too.
			acquired, _, err = s.stock.TryLock(stockLock("org/app", 6, path))
			require.NoError(t, err)
			require.False(t, acquired)

			released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
			require.NoError(t, err)
			require.Len(t, released, 1)
			left, err := s.stock.List()
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}

	t.Run("a present key that looks like one", func(t *testing.T) {
		t.Parallel()
		// org/app, path a, workspace b, project default.
		lock := stockLock("org/app", 5, "a")
		lock.Workspace, lock.Project.ProjectName = "b", "default"
		s := open(t, fill(t, lock), nil)
		_, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 6, "a/b")))
		require.NoError(t, err, "it locks something else")
	})

	t.Run("both keys, two holders", func(t *testing.T) {
		t.Parallel()
		// What stock's missed migration can leave: it granted the lock again.
		old := stockLock("org/app", 5, "a/b")
		value, err := json.Marshal(old)
		require.NoError(t, err)
		file := fill(t, stockLock("org/app", 6, "a/b"))
		put(t, file, "org/app/a/b/default", value)
		s := open(t, file, nil)
		for _, holder := range []int{6, 5} {
			lock, err := s.ours.LookupLock(t.Context(), resourceOf(old))
			require.NoError(t, err)
			require.Equal(t, holder, lock.OriginalLock.Pull.Num)
			require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
		}
		_, err = s.ours.LookupLock(t.Context(), resourceOf(old))
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	})
}

func TestAnUnreadableRecordHarmsOnlyItself(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"cut": `{"Project":`, "null": "null", "array": "[]", "number": "123", "text": "not json",
		"wrong types": `{"Project":5}`, "empty": " ", "a lie": `{"Project":{"RepoFullName":"org/other","Path":"x"},"Workspace":"w"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := stockLock("org/app", 4, "bad"), stockLock("org/app", 5, "good")
			file := fill(t, good)
			put(t, file, "org/app/bad/default/", []byte(value))
			s := open(t, file, nil)

			_, err := s.ours.AcquireLock(t.Context(), request(bad))
			require.ErrorIs(t, err, enhanced.ErrLockExists, "it counts as held")
			require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
			require.ErrorContains(t, err, "runLocks/org/app/bad/default/")
			_, err = s.ours.LookupLock(t.Context(), resourceOf(bad))
			require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
			_, err = s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(bad), Force: true})
			require.ErrorIs(t, err, enhanced.ErrCorruptRecord)

			locks, err := s.ours.ListLocks(t.Context())
			require.NoError(t, err)
			require.Len(t, locks, 1)
			stats, err := s.ours.GetStats(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, stats.ActiveLocks)
			require.Equal(t, []string{"runLocks/org/app/bad/default/"}, stats.UnreadableRecords)
			require.Equal(t, 90, stats.HealthScore)
			released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
			require.NoError(t, err)
			require.Len(t, released, 1)
		})
	}
}

func TestOneKeyOfStocksIsOneLock(t *testing.T) {
	t.Parallel()
	s := open(t, fill(t), nil)
	first := stockLock("a/b", 1, "c/d")
	second := stockLock("a/b/c", 1, "d")
	held, err := s.ours.AcquireLock(t.Context(), request(first))
	require.NoError(t, err)
	holder, acquired, err := s.ours.TryAcquireLock(t.Context(), request(second))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, held, holder)
	_, err = s.ours.LookupLock(t.Context(), resourceOf(second))
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	_, err = s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(second), Force: true})
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), held.ID))
	_, err = s.ours.AcquireLock(t.Context(), request(second))
	require.NoError(t, err)
}

func TestNoCredentialReachesTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	s := open(t, path, nil)
	for i := range 50 {
		lock := stockLock("org/app", i, "p")
		lock.Pull.URL = "https://bot:" + secret + "@github.com/org/app/pull/5"
		lock.Pull.BaseRepo.SanitizedCloneURL = "http://bot:" + secret + "@github.com/org/app.git"
		taken, err := s.ours.AcquireLock(t.Context(), request(lock))
		require.NoError(t, err)
		_, err = s.ours.UpdatePullWithResults(lock.Pull, nil)
		require.NoError(t, err)
		require.NoError(t, s.ours.TransferLock(t.Context(), taken.ID, "user:alice"))
		_, err = s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(lock), Force: true, Actor: "user:admin"})
		require.NoError(t, err)
	}
	s.close(t)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(content), "org/app")
	require.NotContains(t, string(content), secret)
}

func TestTakingOverRemovesCredentials(t *testing.T) {
	t.Parallel()
	lock := stockLock("org/app", 5, ".")
	s := open(t, fill(t, lock), nil)
	_, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket([]byte("runLocks")).Get([]byte(models.GenerateLockKey(lock.Project, lock.Workspace)))
		require.NotEmpty(t, value)
		require.NotContains(t, string(value), secret)
		return nil
	}))
}

func TestWithoutLegacyFormat(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false
	theirs, ours := stockLock("org/app", 5, "a"), stockLock("org/app", 6, "b")
	s := open(t, fill(t, theirs), config)
	_, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 7, "a")))
	require.NoError(t, err)
	require.False(t, acquired, "what stock holds is honoured all the same")
	_, err = s.ours.AcquireLock(t.Context(), request(ours))
	require.NoError(t, err)
	left, err := s.stock.List()
	require.NoError(t, err)
	require.Len(t, left, 1, "ours is not shown to stock")
	client := locking.NewClient(s.stock)
	_, err = client.UnlockByPull("org/app", 5)
	require.NoError(t, err)
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1)
	require.Equal(t, 6, locks[0].OriginalLock.Pull.Num)
}

func TestRecordsWithoutAHostBelongToAnyHost(t *testing.T) {
	t.Parallel()
	// Atlantis stored no repository with the pull request once.
	old := stockLock("org/app", 5, ".")
	old.Pull.BaseRepo = models.Repo{}
	s := open(t, fill(t, old), nil)
	config := enhanced.DefaultConfig()
	config.Enabled = true
	manager := enhanced.NewEnhancedLockManager(s.ours, config, nil)
	adapter := enhanced.NewLockingAdapter(manager, s.ours, config, nil, nil)

	acquired, lock, err := adapter.TryLock(stockLock("org/app", 5, "."))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, 5, lock.Pull.Num, "its own lock")
	_, err = s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(old), Owner: "pr:github.com/org%2Fapp/55"})
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	_, err = s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(old), Owner: "pr:github.com/org%2Fapp/5"})
	require.NoError(t, err)
}
