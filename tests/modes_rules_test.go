package tests

import (
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func boltModes(t *testing.T, adapters int) *modes {
	t.Helper()
	return modeStores()["two files"](t).start(t, adapters)
}

// until waits for the fleet to be as a condition says.
func (f *modes) until(t *testing.T, condition func(enhanced.Fleet) bool) enhanced.Fleet {
	t.Helper()
	var fleet enhanced.Fleet
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var err error
		fleet, err = f.manager.Fleet(t.Context())
		require.NoError(c, err)
		require.True(c, condition(fleet), "%+v", fleet)
	}, 30*time.Second, 20*time.Millisecond)
	return fleet
}

// joinGone adds an adapter that never runs.
func (f *modes) joinGone(t *testing.T, mode enhanced.Mode, epoch int64) {
	t.Helper()
	gone := enhanced.FleetAdapter{Name: "gone", Instance: "1", Mode: mode, Epoch: epoch, Legacy: true}
	_, err := f.backend.(enhanced.FleetStore).ChangeFleet(t.Context(), func(fleet *enhanced.Fleet) error {
		fleet.Put(gone)
		return nil
	})
	require.NoError(t, err)
}

// An adapter that is gone without a word may still decide, until it is forgotten.
func TestModesWithAnAdapterThatIsGone(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	f.set(t, enhanced.ModeShadow)
	f.joinGone(t, enhanced.ModeShadow, 2)
	_, err := f.manager.SwitchMode(t.Context(), enhanced.ModeFull, "user:ops", "test")
	require.NoError(t, err)
	f.until(t, func(fleet enhanced.Fleet) bool { return len(fleet.Behind()) == 1 })
	take(t, f.adapters[0], lockOf(project, 1, "a"))
	f.requireHolders(t, "a", 1, 1)
	// What the other one is granted by the legacy database alone keeps everybody out.
	granted, _, err := f.legacy.TryLock(lockOf(project, 2, "b"))
	require.NoError(t, err)
	require.True(t, granted)
	refused(t, f.adapters[0], lockOf(project, 3, "b"), 2)
	f.requireHolders(t, "b", 2, 0)

	_, err = f.manager.ForgetAdapter(t.Context(), "gone", "user:ops", "")
	require.ErrorContains(t, err, "reason is empty")
	_, err = f.manager.ForgetAdapter(t.Context(), "gone", "user:ops", "its machine is gone")
	require.NoError(t, err)
	f.settle(t)
	// What the other one has granted until then is honoured.
	refused(t, f.adapters[0], lockOf(project, 3, "b"), 2)
	f.requireHolders(t, "b", 2, 2)
}

// Who unlocks a project while both databases decide has seen one lock, and releases that.
func TestModesUnlockOneLock(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	f.set(t, enhanced.ModeShadow)
	f.joinGone(t, enhanced.ModeShadow, 2)
	_, err := f.manager.SwitchMode(t.Context(), enhanced.ModeFull, "user:ops", "test")
	require.NoError(t, err)
	f.until(t, func(fleet enhanced.Fleet) bool { return len(fleet.Behind()) == 1 })
	lock := lockOf(project, 1, "a")
	take(t, f.adapters[0], lock)
	// The other one, which asks the legacy database alone, gives it to somebody else.
	_, err = f.legacy.Unlock(lock.Project, lock.Workspace)
	require.NoError(t, err)
	_, _, err = f.legacy.TryLock(lockOf(project, 2, "a"))
	require.NoError(t, err)

	for _, pull := range []int{1, 2} {
		released, err := f.adapters[0].Unlock(lock.Project, lock.Workspace)
		require.NoError(t, err)
		require.NotNil(t, released)
		require.Equal(t, pull, released.Pull.Num)
	}
	f.requireHolders(t, "a", 0, 0)
}

// One that was forgotten and runs joins again, and two can't have one name.
func TestModesNames(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	_, err := f.manager.ForgetAdapter(t.Context(), "atlantis-0", "user:ops", "by mistake")
	require.NoError(t, err)
	f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0") != nil })

	second := f.newAdapter(t, "atlantis-0")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, _, err := f.adapters[0].TryLock(lockOf(project, 1, "a"))
		require.ErrorContains(c, err, `another adapter has joined as "atlantis-0"`)
	}, 30*time.Second, 20*time.Millisecond)
	take(t, second, lockOf(project, 1, "b"))

	other := f.config("other")
	require.ErrorContains(t, second.UpdateConfiguration(other), "adapter_name")
}

// What differs is counted and told; the legacy database's word counts, but for what
// is read in mode read.
func TestModesDifferences(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	f.set(t, enhanced.ModeShadow)
	a := f.adapters[0]
	rival := lockOf(project, 9, "a")
	_, acquired, err := f.backend.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
		Project: rival.Project, Workspace: rival.Workspace, User: rival.User, Pull: &rival.Pull, Timeout: enhanced.NoTimeout,
	})
	require.NoError(t, err)
	require.True(t, acquired)
	take(t, a, lockOf(project, 1, "a"))
	fleet := f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0").Differences == 1 })
	assert.Equal(t, []string{`lock org/app (path a, workspace default): the legacy database says pull request 1 holds it, the store pull request 9 holds it`},
		fleet.Adapter("atlantis-0").Recent)

	f.set(t, enhanced.ModeRead)
	f.requireHolders(t, "a", 1, 1) // the switch has put that right
	granted, _, err := f.legacy.TryLock(lockOf(project, 2, "b"))
	require.NoError(t, err)
	require.True(t, granted)
	lock, err := a.GetLock(lockOf(project, 2, "b").Project, "default")
	require.NoError(t, err)
	assert.Nil(t, lock)
	f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0").Differences == 2 })
	locks, err := a.List()
	require.NoError(t, err)
	assert.Len(t, locks, 1)
}

// A switch waits for what keeps it from being safe, and says so.
func TestModesGate(t *testing.T) {
	t.Parallel()
	f := boltModes(t, 1)
	a := f.adapters[0]
	user := models.User{Username: "alice"}
	f.set(t, enhanced.ModeOff)
	where := lockOf(project, 1, "a").Project
	_, err := a.LockWithPriority(t.Context(), where, "default", user, enhanced.PriorityHigh)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, `mode "off"`)

	take(t, a, lockOf(project, 1, "a"))
	_, err = f.manager.Lock(t.Context(), where, "default", user)
	require.NoError(t, err)
	_, err = f.manager.SwitchMode(t.Context(), enhanced.ModeFull, "user:ops", "test")
	require.NoError(t, err)
	fleet := f.until(t, func(fleet enhanced.Fleet) bool { return fleet.Adapter("atlantis-0").Problem != "" })
	assert.Contains(t, fleet.Adapter("atlantis-0").Problem, "the legacy database says pull request 1 holds it, the store user alice holds it")
	assert.Equal(t, enhanced.Deciders{Legacy: true, Store: true}, fleet.Deciders())

	_, err = f.manager.Unlock(t.Context(), where, "default", user)
	require.NoError(t, err)
	f.settle(t)
	f.requireHolders(t, "a", 1, 1)
	fleet, err = f.manager.Fleet(t.Context())
	require.NoError(t, err)
	assert.Empty(t, fleet.Adapter("atlantis-0").Problem)
	_, err = a.LockWithPriority(t.Context(), lockOf(project, 1, "b").Project, "default", user, enhanced.PriorityHigh)
	require.NoError(t, err)
}

// While the store can't be reached an adapter goes on as it is: it decides by the
// legacy database, or refuses. One that starts then decides nothing.
func TestModesWithoutTheStore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	stock, err := boltdb.New(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stock.Close()) })
	f := (&modes{legacy: stock, newBackend: func(config *enhanced.EnhancedConfig) enhanced.Backend {
		return backends.NewRedisBackend(server.Client(), config, nil)
	}}).start(t, 1)
	f.set(t, enhanced.ModeShadow)
	server.Kill()
	take(t, f.adapters[0], lockOf(project, 1, "a"))

	config := f.config("new")
	backend := f.newBackend(config)
	late := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, f.legacy, nil)
	t.Cleanup(func() { require.NoError(t, late.Close()) })
	_, _, err = late.TryLock(lockOf(project, 1, "b"))
	require.ErrorIs(t, err, enhanced.ErrModeUnknown)
	require.ErrorIs(t, err, enhanced.ErrBackend)
	granted, _, err := stock.TryLock(lockOf(project, 1, "b"))
	require.NoError(t, err)
	require.True(t, granted, "nobody had it")

	require.NoError(t, server.Run())
	// The server has forgotten all. The adapter tells it the mode again.
	f.until(t, func(fleet enhanced.Fleet) bool {
		return fleet.Mode == enhanced.ModeShadow && fleet.Epoch == 3 && fleet.Adapter("atlantis-0") != nil
	})
	take(t, late, lockOf(project, 2, "c"))
}

// The first mode that is set takes nothing away: both databases may hold locks that
// the other one has never heard of.
func TestModesFirst(t *testing.T) {
	t.Parallel()
	for _, mode := range enhanced.Modes() {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			f := modeStores()["two files"](t).start(t, 0)
			granted, _, err := f.legacy.TryLock(lockOf(project, 1, "a"))
			require.NoError(t, err)
			require.True(t, granted)
			lock := lockOf(project, 2, "b")
			_, granted, err = f.backend.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout,
			})
			require.NoError(t, err)
			require.True(t, granted)

			config := f.config("atlantis-0")
			backend := f.newBackend(config)
			a := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, f.legacy, nil)
			t.Cleanup(func() { require.NoError(t, a.Close()) })
			f.adapters = append(f.adapters, a)
			_, _, err = a.TryLock(lockOf(project, 3, "c"))
			require.ErrorIs(t, err, enhanced.ErrModeUnknown)
			require.ErrorContains(t, err, "no mode was set for the store")
			f.set(t, mode)
			refused(t, a, lockOf(project, 3, "a"), 1)
			refused(t, a, lockOf(project, 3, "b"), 2)
		})
	}
}

// What the store has granted to a pull request that has not taken it yet, and the
// legacy database says it holds, it then has in both.
func TestModesFirstClaims(t *testing.T) {
	t.Parallel()
	f := modeStores()["two files"](t).start(t, 0)
	config := f.config("")
	config.EnablePriorityQueue = true
	queue := f.newBackend(config)
	t.Cleanup(func() { require.NoError(t, queue.(interface{ Close() error }).Close()) })
	ask := func(number int) (*enhanced.EnhancedLock, bool) {
		lock := lockOf(project, number, "a")
		held, acquired, err := queue.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout, Detached: true,
		})
		require.NoError(t, err)
		return held, acquired
	}
	first, acquired := ask(1)
	require.True(t, acquired)
	_, acquired = ask(2)
	require.False(t, acquired)
	require.NoError(t, queue.ReleaseLock(t.Context(), first.ID))
	resource := enhanced.ProjectResource(lockOf(project, 2, "a").Project, "default")
	granted, err := queue.LookupLock(t.Context(), resource)
	require.NoError(t, err)
	require.Equal(t, enhanced.LockStatePending, granted.State)
	held, _, err := f.legacy.TryLock(lockOf(project, 2, "a"))
	require.NoError(t, err)
	require.True(t, held)

	_, err = f.manager.SwitchMode(t.Context(), enhanced.ModeShadow, "user:ops", "first")
	require.NoError(t, err)
	f.adapters = append(f.adapters, f.newAdapter(t, "atlantis-0"))
	f.settle(t)
	claimed, err := f.backend.LookupLock(t.Context(), resource)
	require.NoError(t, err)
	require.Equal(t, enhanced.LockStateAcquired, claimed.State)
}
