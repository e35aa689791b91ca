package tests

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// switched is a fallback's configuration with the store on or off.
func switched(on bool) *enhanced.EnhancedConfig {
	config := fallbackConfig()
	config.Enabled = on
	return config
}

// patientOn starts an adapter of the site that waits for a slow server.
func patientOn(t *testing.T, s *site, legacy db.Database) *enhanced.LockingAdapter {
	t.Helper()
	return s.startOn(t, s.direct(t), legacy)
}

// What the legacy database decides while the store is off is right when it is on
// again, whether Atlantis went on meanwhile or was started anew.
func TestFallbackAfterTheStoreWasOff(t *testing.T) {
	t.Parallel()
	turn := map[string]func(*testing.T, *site, *enhanced.LockingAdapter, bool) *enhanced.LockingAdapter{
		"reload": func(t *testing.T, _ *site, adapter *enhanced.LockingAdapter, on bool) *enhanced.LockingAdapter {
			require.NoError(t, adapter.UpdateConfiguration(switched(on)))
			return adapter
		},
		"restart": func(t *testing.T, s *site, adapter *enhanced.LockingAdapter, on bool) *enhanced.LockingAdapter {
			require.NoError(t, adapter.Close())
			s.config = switched(on)
			return patientOn(t, s, s.legacy)
		},
	}
	for name, turn := range turn {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, redistest.Start(t, redistest.Options{}))
			adapter := patientOn(t, s, s.legacy)
			for _, path := range []string{"kept", "released", "moved", "again"} {
				take(t, adapter, lockOf(fallbackRepo, 5, path))
			}
			adapter = turn(t, s, adapter, false)
			for _, path := range []string{"released", "moved", "again"} {
				_, err := adapter.UnlockIfOwnedByPull(models.NewProject(fallbackRepo, path, ""), "default", 5)
				require.NoError(t, err)
			}
			take(t, adapter, lockOf(fallbackRepo, 6, "moved"))
			take(t, adapter, lockOf(fallbackRepo, 6, "new"))
			take(t, adapter, lockOf(fallbackRepo, 5, "again"))
			s.takeElsewhere(t, 7, "meanwhile", enhanced.NoTimeout)
			require.Equal(t, pullText(5), s.inStore(t, "released"), "the store is not told")
			// A trial of the store doesn't count as its use.
			_, err := enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(t.Context())
			require.NoError(t, err)

			adapter = turn(t, s, adapter, true)
			take(t, adapter, lockOf(fallbackRepo, 6, "released"))
			for path, number := range map[string]int{"kept": 5, "released": 6, "moved": 6, "new": 6, "again": 5, "meanwhile": 7} {
				require.Equal(t, pullText(number), s.inStore(t, path), path)
				require.Equal(t, number, s.inLegacy(t, path), path)
				lock, err := adapter.GetLock(models.NewProject(fallbackRepo, path, ""), "default")
				require.NoError(t, err)
				require.Equal(t, number, lock.Pull.Num, path)
			}
			require.Empty(t, s.told(enhanced.EventConflict))
			require.Empty(t, adapter.Fallback().Unsettled)
		})
	}
}

// The store is switched off and on while pull requests take and release few locks all
// the time. None is granted what another has, and none is left over.
func TestFallbackOffAndOnUnderLoad(t *testing.T) {
	t.Parallel()
	for name, queue := range map[string]bool{"no queue": false, "queue": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &site{legacy: legacyFile(t), config: switched(true)}
			s.config.EnablePriorityQueue, s.config.MaxQueueSize = queue, 1000
			file, err := bbolt.Open(filepath.Join(t.TempDir(), "locks.db"), 0o600, &bbolt.Options{NoSync: true})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, file.Close()) })
			backend, err := backends.NewBoltBackend(file, s.config, nil)
			require.NoError(t, err)
			adapter := s.startOn(t, backend, s.legacy)
			load := startEagerLoad(t, 3, adapter)
			for range backendtest.Rounds(60) {
				for _, on := range []bool{false, true} {
					config := *s.config
					config.Enabled = on
					require.NoError(t, adapter.UpdateConfiguration(&config))
					load.requireFine(t, 10)
				}
			}
			load.stop()
			require.NoError(t, load.err())
			require.Zero(t, load.counts.twice.Load(), "granted while another had it")
			require.Empty(t, s.told(enhanced.EventConflict))
			backendtest.RequireSound(t, backend)
		})
	}
}

// slowLegacy is a legacy database whose TryLock for a path lasts until it is let go.
type slowLegacy struct {
	kept
	path         string
	asked, letGo chan struct{}
}

func (l slowLegacy) TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error) {
	if lock.Project.Path == l.path {
		select {
		case l.asked <- struct{}{}:
		default:
		}
		<-l.letGo
	}
	return l.kept.TryLock(lock)
}

// requireCallsWait waits until a change of who decides has calls wait.
func requireCallsWait(t *testing.T, adapter *enhanced.LockingAdapter) {
	t.Helper()
	backendtest.Eventually(t, "calls wait for the change", func() bool {
		answered := make(chan error, 1)
		go func() {
			_, err := adapter.UnlockByPull("org/none", 1)
			answered <- err
		}()
		select {
		case err := <-answered:
			require.NoError(t, err)
			return false
		case <-time.After(10 * poll):
			return true
		}
	})
}

// Who decides changes when no call is under way: one that the legacy database was still
// to grant would not be seen by those who ask the store.
func TestFallbackWaitsForCallsUnderWay(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	legacy := slowLegacy{legacyFile(t), "slow", make(chan struct{}, 1), make(chan struct{})}
	s.legacy, s.config = legacy, switched(false)
	adapter := patientOn(t, s, legacy)
	granted, updated := make(chan bool), make(chan error)
	go func() {
		acquired, _, err := adapter.TryLock(lockOf(fallbackRepo, 5, "slow"))
		granted <- acquired && err == nil
	}()
	<-legacy.asked
	go func() { updated <- adapter.UpdateConfiguration(switched(true)) }()
	requireCallsWait(t, adapter)
	require.False(t, adapter.IsEnhancedModeEnabled())
	_, err := adapter.List() // as an authorizer may, within a call
	require.NoError(t, err)
	close(legacy.letGo)
	require.True(t, <-granted)
	require.NoError(t, <-updated)
	acquired, holder := tryFor(t, adapter, 6, "slow")
	require.False(t, acquired)
	require.Equal(t, 5, holder.Pull.Num)
}

// What a set has taken and freed is in the legacy database before the caller is told.
func TestFallbackKnowsOfSets(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := patientOn(t, s, s.legacy)
	request := func(path string) *enhanced.EnhancedLockRequest {
		lock := lockOf(fallbackRepo, 5, path)
		return &enhanced.EnhancedLockRequest{Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout}
	}
	_, err := adapter.LockAll(t.Context(), []*enhanced.EnhancedLockRequest{request("x"), request("y")})
	require.NoError(t, err)
	require.Equal(t, []int{5, 5}, []int{s.inLegacy(t, "x"), s.inLegacy(t, "y")})
	_, err = adapter.ReplaceLocks(t.Context(), enhanced.PullOwner("github.com", fallbackRepo, 5), []*enhanced.EnhancedLockRequest{request("y"), request("z")})
	require.NoError(t, err)
	require.Equal(t, []int{0, 5, 5}, []int{s.inLegacy(t, "x"), s.inLegacy(t, "y"), s.inLegacy(t, "z")})
}

// What the store keeps for somebody, who was not told that it is his, does not stand in
// the way of what the legacy database granted.
func TestFallbackAndWhatNobodyWasTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	s.config.EnablePriorityQueue, s.config.MaxQueueSize = true, 10
	s.other = s.direct(t)
	adapter := s.startOn(t, s.backend(t), s.legacy)
	unlock := func(path string, number int) {
		t.Helper()
		released, err := adapter.UnlockIfOwnedByPull(models.NewProject(fallbackRepo, path, ""), "default", number)
		require.NoError(t, err)
		require.NotNil(t, released)
	}
	elsewhere := func(path string) {
		t.Helper()
		_, err := s.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource(path), Force: true, Actor: "user:ann"})
		require.NoError(t, err)
	}
	require7 := func(paths ...string) {
		t.Helper()
		take(t, adapter, lockOf("org/else", 1, "."))
		for _, path := range paths {
			require.Equal(t, pullText(7), s.inStore(t, path), path)
			unlock(path, 7)
		}
		require.Empty(t, s.told(enhanced.EventConflict))
		require.Empty(t, adapter.Fallback().Unsettled)
		_, err := adapter.UnlockByPull("org/else", 1)
		require.NoError(t, err)
	}
	for _, path := range []string{"kept", "granted", "later", "failed"} {
		take(t, adapter, lockOf(fallbackRepo, 5, path))
		refused(t, adapter, lockOf(fallbackRepo, 6, path), 5)
	}
	unlock("kept", 5) // for the pull request itself, which plans again
	elsewhere("granted")
	require.Equal(t, pullText(6), s.inStore(t, "granted"), "it has not asked again")
	off := *s.config
	off.Enabled = false
	require.NoError(t, adapter.UpdateConfiguration(&off))
	require.Equal(t, 6, s.inLegacy(t, "granted"))
	take(t, adapter, lockOf(fallbackRepo, 7, "kept"))
	unlock("granted", 6)
	unlock("later", 5)
	elsewhere("later") // to 6, while nobody listens
	for _, path := range []string{"granted", "later"} {
		take(t, adapter, lockOf(fallbackRepo, 7, path))
	}
	require.NoError(t, adapter.UpdateConfiguration(s.config))
	require7("kept", "granted", "later")

	// The same after an outage.
	s.cut()
	unlock("failed", 5)
	elsewhere("failed")
	take(t, adapter, lockOf(fallbackRepo, 7, "failed"))
	s.heal(t, adapter)
	require7("failed")
}

// The store's locks stay where the legacy database had no part in them.
func TestFallbackOffLeavesWhatItNeverHad(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := patientOn(t, s, s.legacy)
	split := func(number int, path, workspace string) models.ProjectLock {
		lock := lockOf(fallbackRepo, number, path)
		lock.Workspace = workspace
		return lock
	}
	// Two with one of stock's keys, of which it can have one.
	first, second := split(5, "a", "b/c"), split(6, "a/b", "c")
	take(t, adapter, first)
	_, acquired, err := s.other.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
		Project: second.Project, Workspace: second.Workspace, Pull: &second.Pull, Timeout: enhanced.NoTimeout,
	})
	require.NoError(t, err)
	require.True(t, acquired)
	s.takeElsewhere(t, 7, "later", enhanced.NoTimeout)
	backendtest.Eventually(t, "the log is followed", func() bool { return s.inLegacy(t, "later") == 7 })
	require.NoError(t, adapter.UpdateConfiguration(switched(false)))
	_, err = adapter.Unlock(first.Project, first.Workspace)
	require.NoError(t, err)
	_, err = s.other.Release(t.Context(), enhanced.ReleaseRequest{
		Resource: enhanced.ProjectResource(first.Project, first.Workspace), Force: true, Actor: "user:ann",
	})
	require.NoError(t, err)
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	refused(t, adapter, split(8, "a/b", "c"), 6)

	// One from when nobody told it of any.
	alone := switched(true)
	alone.LegacyFallback = false
	require.NoError(t, adapter.UpdateConfiguration(alone))
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	require.Zero(t, s.inLegacy(t, "x"))
	require.NoError(t, adapter.UpdateConfiguration(switched(false)))
	take(t, adapter, lockOf(fallbackRepo, 5, "y"))
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	refused(t, adapter, lockOf(fallbackRepo, 8, "x"), 5)
}

// A set that waits for one lock, and for which another is kept, has to wait for it again
// where the legacy database has granted that one.
func TestFallbackAndWhatIsKeptForASet(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	s.config.EnablePriorityQueue, s.config.MaxQueueSize, s.config.SetReserveAfter = true, 10, time.Millisecond
	s.other = s.direct(t)
	adapter := patientOn(t, s, s.legacy)
	take(t, adapter, lockOf(fallbackRepo, 5, "busy"))
	answers := make(chan error)
	go func() {
		_, err := adapter.LockAll(t.Context(), []*enhanced.EnhancedLockRequest{
			{Resource: fallbackResource("busy"), User: models.User{Username: "bob"}},
			{Resource: fallbackResource("kept"), User: models.User{Username: "bob"}},
		})
		answers <- err
	}()
	backendtest.Eventually(t, "it is kept for the set", func() bool {
		lock, acquired, err := s.other.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{Resource: fallbackResource("kept"), User: models.User{Username: "ann"}})
		require.NoError(t, err)
		if acquired {
			require.NoError(t, s.other.ReleaseLock(t.Context(), lock.ID))
		}
		return !acquired && lock.ID == ""
	})
	off := *s.config
	off.Enabled = false
	require.NoError(t, adapter.UpdateConfiguration(&off))
	take(t, adapter, lockOf(fallbackRepo, 7, "kept"))
	require.NoError(t, adapter.UpdateConfiguration(s.config))
	refused(t, adapter, lockOf(fallbackRepo, 8, "kept"), 7)
	require.Equal(t, pullText(7), s.inStore(t, "kept"))
	require.ErrorIs(t, <-answers, enhanced.ErrLockExpired)
}
