package tests

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

const (
	patience = 30 * time.Second
	poll     = 20 * time.Millisecond
	// loadPerPhase is how many calls each phase has to serve.
	loadPerPhase = 50
)

// migrating is an Atlantis that goes through the phases of the migration: pull
// requests call it all the while, and it never stops.
type migrating struct {
	t       *testing.T
	config  *enhanced.EnhancedConfig
	adapter *enhanced.LockingAdapter
	manager *enhanced.EnhancedLockManager
	legacy  db.Database
	file    *bbolt.DB
	load    *pullLoad
	held    []string // a path for each phase, locked then and held since
	alone   bool     // the store has locks that the legacy database has not
}

// phase changes the configuration, as it is done at run time, and wants what was
// locked in earlier phases still locked, for Atlantis and for stock's database.
func (m *migrating) phase(name string, change func(*enhanced.EnhancedConfig)) {
	m.t.Helper()
	change(m.config)
	require.NoError(m.t, m.adapter.UpdateConfiguration(m.config), name)
	require.Equal(m.t, m.config.Enabled, m.adapter.IsEnhancedModeEnabled(), name)
	take(m.t, m.adapter, lockOf("org/held", 50, name))
	m.held = append(m.held, name)
	refused(m.t, m.adapter, lockOf("org/held", 51, m.held[0]), 50)
	_, err := m.adapter.UnlockByPull("org/held", 51) // who was refused doesn't wait
	require.NoError(m.t, err)
	require.NoError(m.t, m.adapter.HealthCheck(m.t.Context()), name)
	m.load.requireFine(m.t, loadPerPhase)
	m.requireHeld(m.adapter)
	if !m.alone {
		m.requireStocksRecords()
	}
}

// requireStocksRecords wants what is held in the form in which stock has it, and
// has the load go on meanwhile: stock itself would read after its transaction.
func (m *migrating) requireStocksRecords() {
	m.t.Helper()
	require.NoError(m.t, m.file.View(func(tx *bbolt.Tx) error {
		for _, path := range m.held {
			lock := lockOf("org/held", 50, path)
			var stored models.ProjectLock
			record := tx.Bucket([]byte("runLocks")).Get([]byte(models.GenerateLockKey(lock.Project, lock.Workspace)))
			require.NoError(m.t, json.Unmarshal(record, &stored), path)
			require.Equal(m.t, 50, stored.Pull.Num)
		}
		return nil
	}))
}

func (m *migrating) requireHeld(database db.Database) {
	m.t.Helper()
	for _, path := range m.held {
		lock, err := database.GetLock(models.NewProject("org/held", path, ""), "default")
		require.NoError(m.t, err)
		require.NotNil(m.t, lock, path)
		require.Equal(m.t, 50, lock.Pull.Num)
	}
}

// requireCompatibleNow is the specification's test of compatibility, in use; it may
// fail in what is named.
func (m *migrating) requireCompatibleNow(but ...string) {
	m.t.Helper()
	report, err := enhanced.NewCompatibilityChecker(m.adapter, nil).RunCompatibilityTest(m.t.Context())
	require.NoError(m.t, err)
	require.ElementsMatch(m.t, but, slices.Collect(maps.Keys(results(report))), "%+v", report)
}

// newMigrating has stock's database in a file; the store is what newStore makes, also
// of that file.
func newMigrating(t *testing.T, path string, newStore func(file *bbolt.DB, config *enhanced.EnhancedConfig) enhanced.Backend) *migrating {
	t.Helper()
	file, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true}) // nothing crashes here
	require.NoError(t, err)
	stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.Enabled, config.LegacyFallback = false, true
	config.EnablePriorityQueue, config.EnableRetry, config.EnableDeadlockDetection = false, false, false
	config.DeadlockCheckInterval = 100 * time.Millisecond
	backend := newStore(file, config)
	m := &migrating{t: t, config: config, file: file, legacy: newKept(stock, file)}
	m.manager = enhanced.NewEnhancedLockManager(backend, config, nil)
	require.NoError(t, m.manager.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, m.manager.Stop(context.Background())) })
	m.adapter = enhanced.NewLockingAdapter(m.manager, backend, config, m.legacy, nil)
	m.load = startPullLoad(t, 3, m.adapter)
	return m
}

// TestPhases goes through the specification's four phases on the file of an
// Atlantis in use, and through its plan to roll back, under load.
func TestPhases(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := stockBolt(t, dir)
	take(t, before, lockOf("org/held", 50, "before"))
	before.close()
	m := newMigrating(t, filepath.Join(dir, "atlantis.db"), func(file *bbolt.DB, config *enhanced.EnhancedConfig) enhanced.Backend {
		backend, err := backends.NewBoltBackend(file, config, nil)
		require.NoError(t, err)
		return backend
	})
	m.held = []string{"before"}

	m.phase("phase 1", func(*enhanced.EnhancedConfig) {})
	m.requireCompatibleNow()
	_, err := m.adapter.LockWithPriority(t.Context(), lockOf("org/held", 50, "x").Project, "default", models.User{Username: "ann"}, enhanced.PriorityHigh)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest, "nothing but stock's calls yet")

	m.phase("phase 2", func(c *enhanced.EnhancedConfig) { c.Enabled = true })
	m.requireCompatibleNow()
	stats, err := m.adapter.GetEnhancedStats(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, stats.ActiveLocks, len(m.held))
	require.Positive(t, stats.SuccessfulAcquires)

	m.phase("phase 3, queue", func(c *enhanced.EnhancedConfig) { c.EnablePriorityQueue, c.MaxQueueSize = true, 1000 })
	m.requireQueue(true)
	m.phase("phase 3, retry", func(c *enhanced.EnhancedConfig) { c.EnableRetry, c.MaxRetryAttempts = true, 3 })
	m.phase("phase 3, deadlocks", func(c *enhanced.EnhancedConfig) { c.EnableDeadlockDetection = true })
	m.requireDeadlockEnds()
	m.requireCompatibleNow()
	m.phase("phase 4", func(c *enhanced.EnhancedConfig) { c.LegacyFallback = false })

	m.phase("back, features", func(c *enhanced.EnhancedConfig) {
		c.EnablePriorityQueue, c.EnableDeadlockDetection, c.EnableRetry = false, false, false
	})
	m.requireQueue(false)
	m.phase("back, all", func(c *enhanced.EnhancedConfig) { c.Enabled, c.LegacyFallback = false, true })
	m.requireCompatibleNow()

	m.stop()
	// Stock goes on with the file as if nothing had been.
	after := stockBolt(t, dir)
	defer after.close()
	m.requireHeld(after)
	released, err := after.UnlockByPull("org/held", 50)
	require.NoError(t, err)
	require.Len(t, released, len(m.held))
	take(t, after, lockOf("org/held", 51, "before"))
}

// stop ends Atlantis. Nobody was granted what another had.
func (m *migrating) stop() {
	m.t.Helper()
	m.load.stop()
	require.NoError(m.t, m.load.err())
	require.Zero(m.t, m.load.counts.twice.Load(), "granted while another had it")
	require.Positive(m.t, m.load.counts.refusals.Load())
	backendtest.RequireSound(m.t, m.manager.GetBackend())
	require.NoError(m.t, m.adapter.Close())
	require.NoError(m.t, m.legacy.(kept).Database.Close())
}

// requireQueue wants one who was refused to be the next, or not.
func (m *migrating) requireQueue(on bool) {
	m.t.Helper()
	const repository = "org/queue"
	take(m.t, m.adapter, lockOf(repository, 1, "."))
	refused(m.t, m.adapter, lockOf(repository, 2, "."), 1)
	_, err := m.adapter.UnlockByPull(repository, 1)
	require.NoError(m.t, err)
	acquired, holder, err := m.adapter.TryLock(lockOf(repository, 3, "."))
	require.NoError(m.t, err)
	require.Equal(m.t, on, !acquired)
	if on {
		require.Equal(m.t, 2, holder.Pull.Num)
		take(m.t, m.adapter, lockOf(repository, 2, "."))
	}
	for _, number := range []int{3, 2} {
		_, err = m.adapter.UnlockByPull(repository, number)
		require.NoError(m.t, err)
	}
}

// requireDeadlockEnds has two users want what the other one has: one is refused.
func (m *migrating) requireDeadlockEnds() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	names := []string{"ann", "bob"}
	users := []models.User{{Username: names[0]}, {Username: names[1]}}
	projects := []models.Project{models.NewProject("org/cycle", "ann", ""), models.NewProject("org/cycle", "bob", "")}
	for i := range users {
		_, err := m.manager.Lock(ctx, projects[i], "default", users[i])
		require.NoError(m.t, err)
	}
	answers := make(chan error, len(users))
	for i := range users {
		go func() {
			_, err := m.manager.Lock(ctx, projects[1-i], "default", users[i])
			if err != nil { // it gives up what it has, and the other one goes on
				_, unlockErr := m.manager.Unlock(ctx, projects[i], "default", users[i])
				assert.NoError(m.t, unlockErr)
			}
			answers <- err
		}()
	}
	errs := []error{<-answers, <-answers}
	refusals := 0
	for _, err := range errs {
		if err != nil {
			require.ErrorIs(m.t, err, enhanced.ErrDeadlock)
			refusals++
		}
	}
	require.Equal(m.t, 1, refusals, "%v", errs)
	for i := range users {
		for _, where := range projects {
			_, err := m.manager.Unlock(ctx, where, "default", users[i])
			if !errors.Is(err, enhanced.ErrLockNotFound) && !errors.Is(err, enhanced.ErrPermissionDenied) {
				require.NoError(m.t, err)
			}
		}
	}
}
