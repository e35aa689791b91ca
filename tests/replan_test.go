package tests

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// planStore is a store on which Atlantis plans.
type planStore interface {
	enhanced.Backend
	enhanced.Verifier
}

// boltPlans opens a file of ours, and stock's database in it.
func boltPlans(t *testing.T, config *enhanced.EnhancedConfig) (planStore, func() db.Database) {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	b, err := backends.NewBoltBackend(file, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b, func() db.Database {
		stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
		require.NoError(t, err)
		return stock
	}
}

// redisPlans is the same on a server of Redis.
func redisPlans(t *testing.T, config *enhanced.EnhancedConfig) (planStore, func() db.Database) {
	t.Helper()
	server := redistest.Start(t, redistest.Options{})
	b := backends.NewRedisBackend(server.Client(), config, nil)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b, func() db.Database {
		stock, err := redis.NewWithClient(server.Client(), "", "")
		require.NoError(t, err)
		return stock
	}
}

// queueAtlantis is Atlantis on ours with the queue on. With legacy, pull status
// is stock's own database in the same store.
func queueAtlantis(t *testing.T, open func(*testing.T, *enhanced.EnhancedConfig) (planStore, func() db.Database), legacy bool) (*atlantis, planStore) {
	t.Helper()
	config := enhanced.DefaultConfig()
	config.Enabled, config.EnablePriorityQueue = true, true
	b, stock := open(t, config)
	manager := enhanced.NewEnhancedLockManager(b, config, nil)
	if legacy {
		return newAtlantis(t, enhanced.NewLockingAdapter(manager, b, config, stock(), nil)), b
	}
	return newAtlantis(t, enhanced.NewLockingAdapter(manager, b, config, nil, nil)), b
}

// onAllStores runs a test on each store, with pull status in ours and in stock's
// database.
func onAllStores(t *testing.T, test func(t *testing.T, a *atlantis, b planStore)) {
	t.Helper()
	for name, open := range map[string]func(*testing.T, *enhanced.EnhancedConfig) (planStore, func() db.Database){
		"bbolt": boltPlans, "redis": redisPlans,
	} {
		for status, legacy := range map[string]bool{"ours": false, "stock's": true} {
			t.Run(fmt.Sprintf("%s, status in %s", name, status), func(t *testing.T) {
				t.Parallel()
				a, b := queueAtlantis(t, open, legacy)
				test(t, a, b)
				for number := 5; number <= 8; number++ {
					_, err := a.db.UnlockByPull("org/app", number)
					require.NoError(t, err)
				}
				requireWaiters(t, b)
				violations, err := b.Verify(t.Context())
				require.NoError(t, err)
				require.Empty(t, violations)
				page, err := b.ReadLog(t.Context(), "org/app", 0, 10_000)
				require.NoError(t, err)
				priorities := make(map[string]enhanced.Priority)
				for _, r := range page.Records {
					priorities[r.RequestID] = enhanced.PriorityNormal
				}
				require.Empty(t, history.JudgeQueue(page.Records, priorities))
			})
		}
	}
}

func requireWaiters(t *testing.T, b enhanced.Backend, want ...int) {
	t.Helper()
	status, err := b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	var got []int
	for _, r := range status.PendingRequests {
		got = append(got, r.Owner().Number)
	}
	require.Equal(t, want, got)
}

// Stock's fault: a plan that is made again gives the locks away, and a pull
// request that asks in between has one of them.
func TestStockReplanLosesALock(t *testing.T) {
	t.Parallel()
	stock, err := boltdb.New(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stock.Close()) })
	a := newAtlantis(t, stock)
	require.NotContains(t, a.push(t, 5, "c1", "one", "two"), "currently locked")
	require.Contains(t, a.push(t, 6, "d1", "two"), "currently locked by an unapplied plan from pull #5")
	a.dirs.during(func(number, nth int) {
		if number == 5 && nth == 1 {
			a.push(t, 6, "d1", "two")
		}
	})
	require.Contains(t, a.push(t, 5, "c2", "one", "two"), "currently locked by an unapplied plan from pull #6")
	require.Equal(t, 6, a.holder(t, "two"))
}

// With the queue on, a push to the holder's pull request never hands its locks to
// one that waits.
func TestReplanKeepsItsLocks(t *testing.T) {
	t.Parallel()
	onAllStores(t, func(t *testing.T, a *atlantis, b planStore) {
		t.Helper()
		a.push(t, 5, "c1", "one", "two")
		require.Contains(t, a.push(t, 6, "d1", "two"), "currently locked by an unapplied plan from pull #5")
		asked := 0
		a.dirs.during(func(number, nth int) {
			if number == 5 && nth == 1 {
				asked++
				require.Contains(t, a.push(t, 6, "d2", "two"), "currently locked by an unapplied plan from pull #5")
				require.Contains(t, a.push(t, 7, "e1", "two"), "currently locked by an unapplied plan from pull #5")
			}
		})
		require.NotContains(t, a.push(t, 5, "c2", "one", "two"), "currently locked")
		require.Equal(t, 1, asked)
		require.Equal(t, 5, a.holder(t, "one"))
		require.Equal(t, 5, a.holder(t, "two"))
		requireWaiters(t, b, 6, 7)
	})
}

// What the holder's next commit does not change goes on to who waits, at the end
// of the run; who waits has planned again meanwhile, and kept its place.
func TestWaiterThatReplansKeepsItsPlace(t *testing.T) {
	t.Parallel()
	onAllStores(t, func(t *testing.T, a *atlantis, b planStore) {
		t.Helper()
		a.push(t, 5, "c1", "one", "two")
		a.push(t, 6, "d1", "two", "three")
		a.push(t, 7, "e1", "two")
		for _, commit := range []string{"d2", "d3"} {
			require.Contains(t, a.push(t, 6, commit, "two", "three"), "currently locked by an unapplied plan from pull #5")
			requireWaiters(t, b, 6, 7)
			require.Equal(t, 6, a.holder(t, "three"))
		}
		a.close(t, 5, "c1")
		require.Equal(t, 6, a.holder(t, "two"))
		require.Zero(t, a.holder(t, "one"))
		require.Contains(t, a.push(t, 7, "e2", "two"), "currently locked by an unapplied plan from pull #6")
		require.NotContains(t, a.push(t, 6, "d4", "two", "three"), "currently locked", "its plan claims what it was given")
		requireWaiters(t, b, 7)
		lock, err := b.LookupLock(t.Context(), enhanced.ProjectResource(models.NewProject("org/app", "two", ""), "default"))
		require.NoError(t, err)
		require.Equal(t, enhanced.LockStateAcquired, lock.State)
		require.Equal(t, "d4", lock.OriginalLock.Pull.HeadCommit)
	})
}

// A plan that fails gives its lock to the next one, once the run has ended.
func TestFailedPlanHandsOver(t *testing.T) {
	t.Parallel()
	onAllStores(t, func(t *testing.T, a *atlantis, b planStore) {
		t.Helper()
		a.push(t, 5, "c1", "one", "gone")
		require.Zero(t, a.holder(t, "gone"), "there is no such directory")
		a.dirs.during(func(number, nth int) {
			if number == 5 && nth == 1 { // it has the lock of what is not there
				require.Contains(t, a.push(t, 6, "d1", "gone"), "currently locked by an unapplied plan from pull #5")
				requireWaiters(t, b, 6)
			}
			if number == 5 && nth == 2 { // it has given that back
				require.Zero(t, a.holder(t, "gone"))
				require.Contains(t, a.push(t, 7, "e1", "gone"), "currently locked by an unapplied plan from pull #5")
			}
		})
		a.push(t, 5, "c2", "gone", "one")
		require.Equal(t, 6, a.holder(t, "gone"))
		require.Equal(t, 5, a.holder(t, "one"))
	})
}

// A pull request that is closed while it is planned leaves nothing behind.
func TestCloseDuringAPlanLeavesNothing(t *testing.T) {
	t.Parallel()
	onAllStores(t, func(t *testing.T, a *atlantis, b planStore) {
		t.Helper()
		a.push(t, 8, "f1", "three")
		a.push(t, 5, "c1", "one")
		a.push(t, 6, "d1", "one")
		a.dirs.during(func(number, nth int) {
			if number == 5 && nth == 1 {
				a.close(t, 5, "c2")
			}
		})
		comment := a.push(t, 5, "c2", "one", "two", "three")
		require.Contains(t, comment, "was closed while this ran")
		require.Equal(t, 6, a.holder(t, "one"))
		require.Zero(t, a.holder(t, "two"))
		require.Equal(t, 8, a.holder(t, "three"))
		requireWaiters(t, b)
		// Opened again, it plans.
		a.dirs.during(nil)
		require.NotContains(t, a.push(t, 5, "c2", "two"), "closed")
		require.Equal(t, 5, a.holder(t, "two"))
	})
}

// A commit that changes no project replaces the status of the pull request, and
// leaves the place that it has.
func TestReplacedStatusTakesNothingAway(t *testing.T) {
	t.Parallel()
	onAllStores(t, func(t *testing.T, a *atlantis, b planStore) {
		t.Helper()
		a.push(t, 8, "f1", "three")
		a.push(t, 5, "c1", "one", "three")
		a.push(t, 5, "c2")
		require.Equal(t, 5, a.holder(t, "one"))
		requireWaiters(t, b, 5)
		require.NotContains(t, a.push(t, 5, "c2", "two"), "closed")
	})
}
