package backends_test

import (
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Stock's data with two acknowledged owners of one project: PR 6 under the
// present key, and PR 5 under the key from before v0.40, which stock did not
// migrate.
const oldKey = "org/app/envs/prod/default"

func rivalLock(number int) models.ProjectLock { return stockLock("org/app", number, "envs/prod") }

func rivalFile(t *testing.T, holder, rival models.ProjectLock) (path string) {
	t.Helper()
	path = fill(t, holder)
	put(t, path, oldKey, mustJSON(rival))
	return path
}

// putStock writes a record into stock's bucket of a store in use.
func (s *opened) putStock(t *testing.T, key string, value []byte) {
	t.Helper()
	require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("runLocks")).Put([]byte(key), value)
	}))
}

func ownersOf(locks []*enhanced.EnhancedLock) (owners []string) {
	for _, lock := range locks {
		owners = append(owners, lock.Owner)
	}
	return owners
}

// requireRivals checks all that can be seen of a project whose lock PR 6 holds
// and that PR 5 has too.
func requireRivals(t *testing.T, s *opened) {
	t.Helper()
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"pr:github.com/org%2Fapp/6"}, ownersOf(locks), "the present key counts first")
	stats, err := s.ours.GetStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, stats.ActiveLocks)
	require.Empty(t, stats.UnreadableRecords)
	found, err := s.ours.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{enhanced.RuleStockRival}, rulesOf(found))
	require.Equal(t, "runLocks/"+oldKey, found[0].Record)
	require.Equal(t, "org/app", found[0].Repository)
	require.Contains(t, found[0].Detail, "pull request 5 on github.com has a lock on org/app (path envs/prod, workspace default), too, which pull request 6 on github.com holds")
	require.Empty(t, found[0].Repair, "a person has to decide")
	lock, acquired, err := s.ours.TryAcquireLock(t.Context(), request(rivalLock(7)))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, "pr:github.com/org%2Fapp/6", lock.Owner)
}

// requireHeldBy checks that one pull request holds the project, wherever one
// looks, and that the store breaks no rule.
func requireHeldBy(t *testing.T, s *opened, owner string) *enhanced.EnhancedLock {
	t.Helper()
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{owner}, ownersOf(locks))
	require.NotEmpty(t, locks[0].ID)
	stats, err := s.ours.GetStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, stats.ActiveLocks)
	backendtest.RequireSound(t, s.ours)
	lock, acquired, err := s.ours.TryAcquireLock(t.Context(), request(rivalLock(7)))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, owner, lock.Owner)
	stock, err := s.stock.GetLock(rivalLock(0).Project, "default")
	require.NoError(t, err)
	require.NotNil(t, stock, "stock sees it, too")
	return locks[0]
}

// requireFreed checks that nothing is left of the project's locks.
func requireFreed(t *testing.T, s *opened) {
	t.Helper()
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
	left, err := s.stock.List()
	require.NoError(t, err)
	require.Empty(t, left)
	backendtest.RequireSound(t, s.ours)
	_, acquired, err := s.ours.TryAcquireLock(t.Context(), request(rivalLock(7)))
	require.NoError(t, err)
	require.True(t, acquired)
}

func TestBothRivalsPullRequestsClose(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]bool{"after a look at all locks": true, "at once": false} {
		for _, order := range [][]int{{5, 6}, {6, 5}} {
			t.Run(name+", "+string(mustJSON(order)), func(t *testing.T) {
				t.Parallel()
				s := open(t, rivalFile(t, rivalLock(6), rivalLock(5)), nil)
				if look {
					requireRivals(t, s)
				}
				stays := map[int]string{5: "pr:github.com/org%2Fapp/6", 6: "pr:github.com/org%2Fapp/5"}
				for i, number := range order {
					released, err := s.ours.ReleaseByPull(t.Context(), "org/app", number, enhanced.SystemAtlantis)
					require.NoError(t, err)
					require.Len(t, released, 1)
					require.Equal(t, number, released[0].OriginalLock.Pull.Num)
					require.Equal(t, enhanced.LockStateReleased, released[0].State)
					require.Empty(t, released[0].OriginalLock.Pull.BaseRepo.CloneURL)
					if i == 0 {
						requireHeldBy(t, s, stays[number])
					}
				}
				requireFreed(t, s)
			})
		}
	}
}

// However the lock ends, its rival takes its place in the same step.
func TestARivalTakesTheLocksPlace(t *testing.T) {
	t.Parallel()
	six := 6
	for name, end := range map[string]func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error{
		"by ID": func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error {
			return s.ours.ReleaseLock(t.Context(), lock.ID)
		},
		"by owner": func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error {
			_, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
			return err
		},
		"by number": func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error {
			_, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, PullNumber: &six})
			return err
		},
		"by force": func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error {
			released, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true, Actor: "user:admin"})
			require.Equal(t, lock.ID, released.ID)
			return err
		},
		"after a transfer": func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error {
			require.NoError(t, s.ours.TransferLock(t.Context(), lock.ID, "user:alice"))
			found, err := s.ours.Verify(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{enhanced.RuleStockRival}, rulesOf(found))
			_, err = s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: "user:alice"})
			return err
		},
		"by stock": func(t *testing.T, s *opened, lock *enhanced.EnhancedLock) error {
			_, err := s.stock.Unlock(lock.Resource.Project(), "default")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, rivalFile(t, rivalLock(6), rivalLock(5)), nil)
			requireRivals(t, s)
			lock, err := s.ours.LookupLock(t.Context(), resourceOf(rivalLock(6)))
			require.NoError(t, err)
			require.NoError(t, end(t, s, lock))
			heir := requireHeldBy(t, s, "pr:github.com/org%2Fapp/5")
			require.Greater(t, heir.Version, lock.Version)
		})
	}
}

func TestARivalTakesThePlaceOfALeaseThatEnds(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(t *testing.T, s *opened) string{
		"list": func(t *testing.T, s *opened) string {
			locks, err := s.ours.ListLocks(t.Context())
			require.NoError(t, err)
			require.Len(t, locks, 1)
			return locks[0].Owner
		},
		"look up": func(t *testing.T, s *opened) string {
			lock, err := s.ours.LookupLock(t.Context(), resourceOf(rivalLock(5)))
			require.NoError(t, err)
			return lock.Owner
		},
		"refused": func(t *testing.T, s *opened) string {
			lock, acquired, err := s.ours.TryAcquireLock(t.Context(), request(rivalLock(7)))
			require.NoError(t, err)
			require.False(t, acquired)
			return lock.Owner
		},
		"swept": func(t *testing.T, s *opened) string {
			n, err := s.ours.CleanupExpiredLocks(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, n)
			stats, err := s.ours.GetStats(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, stats.ActiveLocks)
			return "pr:github.com/org%2Fapp/5"
		},
		"released": func(t *testing.T, s *opened) string {
			released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
			require.NoError(t, err)
			require.Len(t, released, 1)
			_, _, err = s.ours.TryAcquireLock(t.Context(), request(rivalLock(5)))
			require.NoError(t, err)
			return released[0].Owner
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fill(t)
			synctest.Test(t, func(t *testing.T) {
				s := open(t, path, nil)
				leased := request(rivalLock(6))
				leased.Timeout = time.Hour
				_, err := s.ours.AcquireLock(t.Context(), leased)
				require.NoError(t, err)
				s.putStock(t, oldKey, mustJSON(rivalLock(5)))
				requireRivals(t, s)
				advance(2 * time.Hour)
				stats, err := s.ours.GetStats(t.Context())
				require.NoError(t, err)
				require.Equal(t, 1, stats.ActiveLocks, "who is next counts before it is told so")
				require.Equal(t, "pr:github.com/org%2Fapp/5", look(t, s))
				requireHeldBy(t, s, "pr:github.com/org%2Fapp/5")
			})
		})
	}
}

// Two records of one pull request are one lock: no conflict, and released as one.
func TestTheSamePullRequestsOldRecordGoesWithItsLock(t *testing.T) {
	t.Parallel()
	noHost := rivalLock(6)
	noHost.Pull.BaseRepo = models.Repo{}
	for name, old := range map[string]models.ProjectLock{"same": rivalLock(6), "from before hosts": noHost} {
		for how, release := range map[string]func(t *testing.T, s *opened){
			"by pull request": func(t *testing.T, s *opened) {
				released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 6, enhanced.SystemAtlantis)
				require.NoError(t, err)
				require.Len(t, released, 1)
			},
			"by owner": func(t *testing.T, s *opened) {
				_, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(old), Owner: "pr:github.com/org%2Fapp/6"})
				require.NoError(t, err)
			},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				s := open(t, rivalFile(t, rivalLock(6), old), nil)
				requireHeldBy(t, s, "pr:github.com/org%2Fapp/6")
				release(t, s)
				requireFreed(t, s)
				page, err := s.ours.ReadLog(t.Context(), "org/app", 0, 100)
				require.NoError(t, err)
				for _, record := range page.Records {
					require.NotEqual(t, enhanced.EventConflict, record.Type)
				}
			})
		}
	}
}

// A rival can be released by its own pull request while the lock is held, and by
// nobody else.
func TestARivalIsReleasedByItsOwner(t *testing.T) {
	t.Parallel()
	s := open(t, rivalFile(t, rivalLock(6), rivalLock(5)), nil)
	resource := resourceOf(rivalLock(5))
	for _, foreign := range []string{"pr:github.com/org%2Fapp/55", "pr:gitlab.com/org%2Fapp/5", "user:runner"} {
		_, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource, Owner: foreign})
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	}
	requireRivals(t, s)
	five := 5
	released, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource, PullNumber: &five})
	require.NoError(t, err)
	require.Equal(t, "pr:github.com/org%2Fapp/5", released.Owner)
	require.Empty(t, released.ID, "it never had one")
	requireHeldBy(t, s, "pr:github.com/org%2Fapp/6")
}

// Which of two hosts' pull requests a close means is not guessed.
func TestARivalOfAnotherHostIsNamed(t *testing.T) {
	t.Parallel()
	other := rivalLock(6)
	other.Pull.BaseRepo.VCSHost.Hostname = "gitlab.com"
	s := open(t, rivalFile(t, rivalLock(6), other), nil)
	_, err := s.ours.ReleaseByPull(t.Context(), "org/app", 6, enhanced.SystemAtlantis)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "gitlab.com")
	found, err := s.ours.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{enhanced.RuleStockRival}, rulesOf(found))
}

// The log says once that two hold the lock, and who stopped to.
func TestRivalsAreLogged(t *testing.T) {
	t.Parallel()
	path := rivalFile(t, rivalLock(6), rivalLock(5))
	s := open(t, path, nil)
	for range 3 {
		requireRivals(t, s)
	}
	s.close(t)
	s = open(t, path, nil)
	requireRivals(t, s)
	_, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, "user:closer")
	require.NoError(t, err)
	page, err := s.ours.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	require.Len(t, page.Records, 3)
	adopted, conflict, released := page.Records[0], page.Records[1], page.Records[2]
	require.Equal(t, enhanced.EventAdopted, adopted.Type)
	require.Equal(t, enhanced.EventConflict, conflict.Type)
	require.Equal(t, adopted.Token, conflict.Token)
	require.Equal(t, "pr:github.com/org%2Fapp/6", conflict.After.Owner)
	require.Contains(t, conflict.Reason, "pr:github.com/org%2Fapp/5")
	require.Contains(t, conflict.Reason, oldKey)
	require.Equal(t, enhanced.EventReleased, released.Type)
	require.Equal(t, "pr:github.com/org%2Fapp/5", released.Before.Owner)
	require.Zero(t, released.Token)
	require.Equal(t, "user:closer", released.Actor)
	require.Equal(t, enhanced.CausePull, released.Cause)
	require.Nil(t, released.After)
}

// A file that only stock has written is checked for rivals, too.
func TestVerifyNamesRivalsInStocksFile(t *testing.T) {
	t.Parallel()
	path := rivalFile(t, rivalLock(6), rivalLock(5))
	found := verifyFile(t, path)
	require.Equal(t, []string{enhanced.RuleStockRival}, rulesOf(found))
	require.Equal(t, "runLocks/"+oldKey, found[0].Record)
	require.Empty(t, verifyFile(t, rivalFile(t, rivalLock(6), rivalLock(6))), "one owner is no conflict")
}

// Without copies for stock, stock can lock what is locked here.
func TestARivalUnderThePresentKey(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false
	s := open(t, fill(t), config)
	lock, err := s.ours.AcquireLock(t.Context(), request(rivalLock(6)))
	require.NoError(t, err)
	acquired, _, err := s.stock.TryLock(rivalLock(5))
	require.NoError(t, err)
	require.True(t, acquired)
	found, err := s.ours.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{enhanced.RuleStockRival}, rulesOf(found))
	_, err = s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
	requireHeldBy(t, s, "pr:github.com/org%2Fapp/5")
}

// Two projects with one key of stock's: the old record is of the one that the
// key's lock keeps out.
func TestARivalOfAnotherProjectWithTheKey(t *testing.T) {
	t.Parallel()
	holder := stockLock("org", 6, "app/envs/prod")
	for name, release := range map[string]func(s *opened) error{
		"5 closes": func(s *opened) error {
			released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
			require.Len(t, released, 1)
			return err
		},
		"5 unlocks": func(s *opened) error {
			released, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{Resource: resourceOf(rivalLock(5)), Owner: "pr:github.com/org%2Fapp/5"})
			require.Equal(t, resourceOf(rivalLock(5)), released.Resource)
			return err
		},
		"6 closes": func(s *opened) error {
			_, err := s.ours.ReleaseByPull(t.Context(), "org", 6, enhanced.SystemAtlantis)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, rivalFile(t, holder, rivalLock(5)), nil)
			locks, err := s.ours.ListLocks(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{"pr:github.com/org/6"}, ownersOf(locks))
			require.NoError(t, release(s))
			locks, err = s.ours.ListLocks(t.Context())
			require.NoError(t, err)
			backendtest.RequireSound(t, s.ours)
			if name == "6 closes" {
				require.Equal(t, []string{"pr:github.com/org%2Fapp/5"}, ownersOf(locks))
			} else {
				require.Equal(t, []string{"pr:github.com/org/6"}, ownersOf(locks))
			}
		})
	}
}
