package tests

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	stockredis "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// newBoltAdapter returns an adapter on a new file, with stock's own database
// on the same file where that is asked for, passed through wrap.
func newBoltAdapter(t *testing.T, config *enhanced.EnhancedConfig, wrap func(db.Database) db.Database, opts ...enhanced.ManagerOption) *enhanced.LockingAdapter {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	backend, err := backends.NewBoltBackend(file, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	var legacy db.Database
	if wrap != nil {
		stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
		require.NoError(t, err)
		legacy = wrap(stock)
	}
	return enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil, opts...), backend, config, legacy, nil)
}

func unwrapped(d db.Database) db.Database { return d }

func compatibilityConfig(queue bool) *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.Enabled, config.EnablePriorityQueue = true, queue
	return config
}

// inUse puts what an Atlantis in use has there, and returns a check that it is
// there still, and nothing else.
func inUse(t *testing.T, database db.Database) (unchanged func()) {
	t.Helper()
	pull := models.PullRequest{Num: 5, HeadCommit: "c", BaseRepo: models.Repo{FullName: "org/app", VCSHost: models.VCSHost{Hostname: "github.com"}}}
	acquired, _, err := database.TryLock(models.ProjectLock{
		Project: models.NewProject("org/app", "envs/prod", ""), Workspace: "default", Pull: pull, User: models.User{Username: "ann"}, Time: time.Now(),
	})
	require.NoError(t, err)
	require.True(t, acquired)
	_, err = database.UpdatePullWithResults(pull, nil)
	require.NoError(t, err)
	_, err = database.LockCommand(command.Apply, time.Unix(1_700_000_000, 0))
	require.NoError(t, err)
	return func() {
		t.Helper()
		locks, err := database.List()
		require.NoError(t, err)
		require.Len(t, locks, 1)
		require.Equal(t, "org/app", locks[0].Project.RepoFullName)
		status, err := database.GetPullStatus(pull)
		require.NoError(t, err)
		require.NotNil(t, status)
		lock, err := database.CheckCommandLock(command.Apply)
		require.NoError(t, err)
		require.EqualValues(t, 1_700_000_000, lock.LockMetadata.UnixTime)
		lock, err = database.CheckCommandLock(command.Version)
		require.NoError(t, err)
		require.Nil(t, lock)
	}
}

// results are the checks of a report that have not passed.
func results(report *enhanced.CompatibilityReport) map[string]string {
	found := make(map[string]string)
	for _, check := range report.Checks {
		if check.Result != enhanced.CompatibilityPassed {
			found[check.Name] = check.Result
		}
	}
	return found
}

func requireCompatible(t *testing.T, database db.Database, checks int) {
	t.Helper()
	report, err := enhanced.NewCompatibilityChecker(database, nil).RunCompatibilityTest(t.Context())
	require.NoError(t, err)
	require.Empty(t, results(report), "%+v", report)
	require.True(t, report.Success)
	require.Len(t, report.Checks, checks)
	requireNoWaiters(t, database)
}

// requireNoWaiters wants nothing left of refused requests.
func requireNoWaiters(t *testing.T, database db.Database) {
	t.Helper()
	manager, ok := database.(*enhanced.LockingAdapter).Manager().(*enhanced.EnhancedLockManager)
	require.True(t, ok)
	status, err := manager.GetBackend().GetQueueStatus(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Size)
}

// TestBackwardCompatibility makes the compatibility test of the specification on
// each store, with the queue and without, and with stock's database on the same
// store where there can be one.
func TestBackwardCompatibility(t *testing.T) {
	t.Parallel()
	const all, withoutLegacy = 9, 8
	server, cluster := redistest.Start(t, redistest.Options{}), redistest.StartCluster(t, 3, 0, redistest.Options{})
	for _, queue := range []bool{false, true} {
		t.Run(fmt.Sprint("queue ", queue), func(t *testing.T) {
			t.Run("bbolt", func(t *testing.T) {
				adapter := newBoltAdapter(t, compatibilityConfig(queue), nil)
				unchanged := inUse(t, adapter)
				requireCompatible(t, adapter, withoutLegacy)
				unchanged()
			})
			t.Run("bbolt with the legacy database", func(t *testing.T) {
				adapter := newBoltAdapter(t, compatibilityConfig(queue), unwrapped)
				unchanged := inUse(t, adapter)
				requireCompatible(t, adapter, all)
				unchanged()
			})
			client := server.Client()
			require.NoError(t, client.FlushAll(t.Context()).Err())
			newRedisAdapter := func(t *testing.T, legacy db.Database) *enhanced.LockingAdapter {
				t.Helper()
				config := compatibilityConfig(queue)
				b := backends.NewRedisBackend(client, config, nil)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				return enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(b, config, nil), b, config, legacy, nil)
			}
			t.Run("Redis", func(t *testing.T) {
				requireCompatible(t, newRedisAdapter(t, nil), withoutLegacy)
			})
			t.Run("Redis with the legacy database", func(t *testing.T) {
				stock, err := stockredis.NewWithClient(client, "", "")
				require.NoError(t, err)
				adapter := newRedisAdapter(t, stock)
				unchanged := inUse(t, adapter)
				requireCompatible(t, adapter, all)
				unchanged()
			})
			t.Run("cluster", func(t *testing.T) {
				config := compatibilityConfig(queue)
				config.RedisClusterMode = true
				b := backends.NewRedisBackend(cluster.Client(), config, nil)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				requireCompatible(t, enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(b, config, nil), b, config, nil, nil), withoutLegacy)
			})
		})
	}
}

// Switched off, the test is of what would be switched on.
func TestCompatibilityBeforeSwitchingOn(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	adapter := newBoltAdapter(t, config, unwrapped)
	unchanged := inUse(t, adapter)
	requireCompatible(t, adapter, 9)
	unchanged()
	require.False(t, adapter.IsEnhancedModeEnabled())
	config.Enabled, config.PreserveLegacyFormat = true, false
	adapter = newBoltAdapter(t, config, unwrapped)
	report, err := enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]string{"legacy format": enhanced.CompatibilityFailed}, results(report))
}

// Two tests at once on one store do not disturb each other.
func TestCompatibilityTestsAtOnce(t *testing.T) {
	t.Parallel()
	adapter := newBoltAdapter(t, compatibilityConfig(true), unwrapped)
	reports := make(chan *enhanced.CompatibilityReport)
	for range 3 {
		go func() {
			report, _ := enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(t.Context())
			reports <- report
		}()
	}
	for range 3 {
		report := <-reports
		require.True(t, report.Success, "%+v", report)
	}
}

// Of a database that does not answer nothing else is asked.
func TestCompatibilityOfADeadStore(t *testing.T) {
	t.Parallel()
	adapter := newBoltAdapter(t, compatibilityConfig(false), nil)
	b := &brokenAdapter{LockingAdapter: adapter, ping: func() error { return errors.New("no answer") }, tryLock: func(models.ProjectLock) (bool, models.ProjectLock, error) {
		t.Error("TryLock was called")
		return false, models.ProjectLock{}, nil
	}}
	report, err := enhanced.NewCompatibilityChecker(b, nil).RunCompatibilityTest(t.Context())
	require.NoError(t, err)
	require.False(t, report.Success)
	got := results(report)
	require.Equal(t, enhanced.CompatibilityFailed, got["answers"])
	require.Equal(t, enhanced.CompatibilitySkipped, got["lock and unlock"])
	require.Equal(t, enhanced.CompatibilitySkipped, got["command locks"])
}

// A context that ends leaves nothing behind, wherever it ends.
func TestCompatibilityTestIsCancelled(t *testing.T) {
	t.Parallel()
	for _, call := range []int{1, 6, 30, 90, 94} {
		t.Run(fmt.Sprint("in call ", call), func(t *testing.T) {
			t.Parallel()
			adapter := newBoltAdapter(t, compatibilityConfig(true), unwrapped)
			unchanged := inUse(t, adapter)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			calls := make(chan struct{}, call-1)
			b := &brokenAdapter{LockingAdapter: adapter, tryLock: func(lock models.ProjectLock) (bool, models.ProjectLock, error) {
				select {
				case calls <- struct{}{}:
				default:
					cancel()
				}
				return adapter.TryLock(lock)
			}}
			report, err := enhanced.NewCompatibilityChecker(b, nil).RunCompatibilityTest(ctx)
			require.ErrorIs(t, err, context.Canceled)
			require.False(t, report.Success)
			require.Equal(t, enhanced.CompatibilitySkipped, results(report)["command locks"], "%+v", report)
			require.NotContains(t, results(report), "clean up")
			requireNoWaiters(t, adapter)
			unchanged()
		})
	}
}

// What can't be cleaned up is named.
func TestCompatibilityTestThatMayNotUnlock(t *testing.T) {
	t.Parallel()
	config := compatibilityConfig(false)
	config.DenySystemUnlock = true
	adapter := newBoltAdapter(t, config, nil)
	unchanged := inUse(t, adapter)
	report, err := enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]string{"lock and unlock": enhanced.CompatibilityFailed, "unlock by pull request": enhanced.CompatibilityFailed}, results(report))
	require.Contains(t, report.Checks[1].Remedy, "deny_system_unlock")
	unchanged()

	adapter = newBoltAdapter(t, compatibilityConfig(false), nil, enhanced.WithAuthorizer(func(_ context.Context, a enhanced.AuthorizationRequest) error {
		if a.Action == enhanced.ActionReleasePull {
			return errors.New("no")
		}
		return nil
	}))
	report, err = enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(t.Context())
	require.NoError(t, err)
	require.Equal(t, enhanced.CompatibilityFailed, results(report)["clean up"])
	last := report.Checks[len(report.Checks)-1]
	require.Contains(t, last.Detail, enhanced.CompatibilityNamespace)
}
