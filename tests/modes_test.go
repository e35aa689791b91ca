package tests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// modes is a fleet: some adapters of one store, and the legacy database that they
// share.
type modes struct {
	adapters []*enhanced.LockingAdapter
	legacy   db.Database
	manager  *enhanced.EnhancedLockManager
	backend  enhanced.Backend

	newBackend func(*enhanced.EnhancedConfig) enhanced.Backend
	mirrored   bool      // both are in one store
	file       *bbolt.DB // of both, if they are in one
	timeout    time.Duration
}

// modeStores are where the legacy database and the store are.
func modeStores() map[string]func(tb testing.TB) *modes {
	return map[string]func(tb testing.TB) *modes{
		"two files": func(tb testing.TB) *modes {
			tb.Helper()
			stock, err := boltdb.New(tb.TempDir())
			require.NoError(tb, err)
			tb.Cleanup(func() { require.NoError(tb, stock.Close()) })
			return &modes{legacy: stock, newBackend: boltBackends(tb, openFile(tb))}
		},
		"one file": func(tb testing.TB) *modes {
			tb.Helper()
			file := openFile(tb)
			stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
			require.NoError(tb, err)
			return &modes{legacy: stock, newBackend: boltBackends(tb, file), mirrored: true, file: file}
		},
		"file and Redis": func(tb testing.TB) *modes {
			tb.Helper()
			stock, err := boltdb.New(tb.TempDir())
			require.NoError(tb, err)
			tb.Cleanup(func() { require.NoError(tb, stock.Close()) })
			server := redistest.Start(tb, redistest.Options{})
			return &modes{legacy: stock, newBackend: func(config *enhanced.EnhancedConfig) enhanced.Backend {
				return backends.NewRedisBackend(server.Client(), config, nil)
			}}
		},
	}
}

func openFile(tb testing.TB) *bbolt.DB {
	tb.Helper()
	file, err := bbolt.Open(filepath.Join(tb.TempDir(), "ours.db"), 0o600, nil)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, file.Close()) })
	return file
}

func boltBackends(tb testing.TB, file *bbolt.DB) func(*enhanced.EnhancedConfig) enhanced.Backend {
	tb.Helper()
	return func(config *enhanced.EnhancedConfig) enhanced.Backend {
		backend, err := backends.NewBoltBackend(file, config, nil)
		require.NoError(tb, err)
		return backend
	}
}

func (f *modes) config(name string) *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.Enabled, config.PreserveLegacyFormat, config.LegacyFallback = true, f.mirrored, false
	config.AdapterName = name
	config.OperationTimeout = cmp.Or(f.timeout, 500*time.Millisecond)
	return config
}

// start makes the adapters.
func (f *modes) start(tb testing.TB, adapters int) *modes {
	tb.Helper()
	f.legacy = newKept(f.legacy, f.file)
	f.backend = f.newBackend(f.config(""))
	tb.Cleanup(func() { require.NoError(tb, f.backend.(interface{ Close() error }).Close()) })
	f.manager = enhanced.NewEnhancedLockManager(f.backend, f.config(""), nil)
	if adapters > 0 {
		_, err := f.manager.SwitchMode(tb.Context(), enhanced.ModeFull, "user:ops", "first")
		require.NoError(tb, err)
	}
	for i := range adapters {
		f.adapters = append(f.adapters, f.newAdapter(tb, fmt.Sprintf("atlantis-%d", i)))
	}
	return f
}

// newAdapter makes an adapter that is in the fleet.
func (f *modes) newAdapter(tb testing.TB, name string) *enhanced.LockingAdapter {
	tb.Helper()
	config := f.config(name)
	backend := f.newBackend(config)
	adapter := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, f.legacy, nil)
	tb.Cleanup(func() { require.NoError(tb, adapter.Close()) })
	_, err := adapter.Mode(tb.Context())
	require.NoError(tb, err)
	return adapter
}

// set switches the mode; it returns when all adapters have followed.
func (f *modes) set(tb testing.TB, mode enhanced.Mode) {
	tb.Helper()
	_, err := f.manager.SwitchMode(tb.Context(), mode, "user:ops", "test")
	require.NoError(tb, err)
	f.settle(tb)
}

func (f *modes) settle(tb testing.TB) {
	tb.Helper()
	require.EventuallyWithT(tb, func(c *assert.CollectT) {
		fleet, err := f.manager.Fleet(tb.Context())
		require.NoError(c, err)
		require.Empty(c, fleet.Behind())
		for _, a := range f.adapters {
			seen, err := a.Mode(tb.Context())
			require.NoError(c, err)
			require.Equal(c, fleet.Epoch, seen.Epoch)
			require.Equal(c, fleet.Deciders(), seen.Deciders())
		}
	}, 30*time.Second, 20*time.Millisecond)
}

// holders are the pull requests that hold a path in the legacy database and in the
// store, 0 for none.
func (f *modes) holders(t *testing.T, path string) (legacy, store int) {
	t.Helper()
	lock, err := f.legacy.GetLock(lockOf(project, 1, path).Project, "default")
	require.NoError(t, err)
	if lock != nil {
		legacy = lock.Pull.Num
	}
	ours, err := f.backend.LookupLock(t.Context(), enhanced.ProjectResource(lockOf(project, 1, path).Project, "default"))
	if !errors.Is(err, enhanced.ErrLockNotFound) {
		require.NoError(t, err)
		store = ours.OriginalLock.Pull.Num
	}
	return legacy, store
}

func (f *modes) requireHolders(t *testing.T, path string, legacy, store int) {
	t.Helper()
	inLegacy, inStore := f.holders(t, path)
	assert.Equal(t, [2]int{legacy, store}, [2]int{inLegacy, inStore}, "holders of %s in the legacy database and in the store", path)
}

// TestModesForthAndBack walks through the modes with locks that are held all the
// while.
func TestModesForthAndBack(t *testing.T) {
	t.Parallel()
	for name, stores := range modeStores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modesForthAndBack(t, stores(t).start(t, 2))
		})
	}
}

func modesForthAndBack(t *testing.T, f *modes) {
	t.Helper()
	one, two := f.adapters[0], f.adapters[1]
	// alone is who holds in one database what is in both where they are one store.
	alone := func(pull int) int {
		if f.mirrored {
			return pull
		}
		return 0
	}
	f.set(t, enhanced.ModeOff)
	take(t, one, lockOf(project, 1, "a"))
	f.requireHolders(t, "a", 1, alone(1))

	f.set(t, enhanced.ModeShadow)
	f.requireHolders(t, "a", 1, 1)
	take(t, two, lockOf(project, 2, "b"))
	f.requireHolders(t, "b", 2, 2)
	refused(t, one, lockOf(project, 3, "b"), 2)
	f.requireHolders(t, "b", 2, 2)

	f.set(t, enhanced.ModeRead)
	take(t, one, lockOf(project, 3, "c"))
	locks, err := two.List()
	require.NoError(t, err)
	require.Len(t, locks, 3)
	assert.Empty(t, locks[0].Pull.BaseRepo.CloneURL, "what is read comes from the store, which holds no credentials")
	for _, a := range f.adapters {
		_, err := a.GetLock(lockOf(project, 1, "a").Project, "default")
		require.NoError(t, err)
	}

	f.set(t, enhanced.ModeFull)
	take(t, two, lockOf(project, 4, "d"))
	f.requireHolders(t, "d", alone(4), 4)
	released, err := one.UnlockByPull(project, 1)
	require.NoError(t, err)
	assert.Len(t, released, 1)
	f.requireHolders(t, "a", 1-alone(1), 0)

	f.set(t, enhanced.ModeRead)
	f.requireHolders(t, "a", 0, 0)
	f.requireHolders(t, "d", 4, 4)
	f.set(t, enhanced.ModeOff)
	refused(t, one, lockOf(project, 1, "d"), 4)
	take(t, one, lockOf(project, 1, "a"))

	fleet, err := f.manager.Fleet(t.Context())
	require.NoError(t, err)
	for _, a := range fleet.Adapters {
		assert.Zero(t, a.Differences, "%v", a.Recent)
	}
	backendtest.RequireSound(t, f.backend)
}

func refused(t *testing.T, a *enhanced.LockingAdapter, lock models.ProjectLock, holder int) {
	t.Helper()
	acquired, held, err := a.TryLock(lock)
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, holder, held.Pull.Num)
}

// TestModesUnderLoad switches through all modes and back while many pull requests
// take and release the same locks through two adapters. Nobody is granted what
// another has, at any moment.
func TestModesUnderLoad(t *testing.T) {
	t.Parallel()
	for name, stores := range modeStores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := stores(t)
			f.timeout = underLoad
			modesUnderLoad(t, f.start(t, 2))
		})
	}
}

// underLoad is how long an operation may take on a busy machine. A switch from full
// takes at least twice that.
const underLoad = 2 * time.Second

func modesUnderLoad(t *testing.T, f *modes) {
	t.Helper()
	for range backendtest.Rounds(20) {
		for _, mode := range []enhanced.Mode{
			enhanced.ModeRead, enhanced.ModeShadow, enhanced.ModeOff, enhanced.ModeShadow, enhanced.ModeRead, enhanced.ModeFull,
		} {
			load := newModeLoad(t, f, 8, 4)
			f.set(t, mode)
			load.stop()
			require.NoError(t, load.err())
			require.NotZero(t, load.grants.Load())
			f.requireFree(t, mode)
		}
	}
	backendtest.RequireSound(t, f.backend)
}

// requireFree checks that who decides, and who is compared, holds nothing.
func (f *modes) requireFree(t *testing.T, mode enhanced.Mode) {
	t.Helper()
	if mode != enhanced.ModeFull {
		locks, err := f.legacy.List()
		require.NoError(t, err)
		assert.Empty(t, locks, "%s: left in the legacy database", mode)
	}
	if mode != enhanced.ModeOff {
		locks, err := f.backend.ListLocks(t.Context())
		require.NoError(t, err)
		for _, lock := range locks {
			assert.Fail(t, "left in the store", "%s: %s by %s, %v", mode, lock.Resource, lock.Owner, lock.Metadata)
		}
	}
}

// modeLoad takes and releases few locks all the time.
type modeLoad struct {
	cancel                       context.CancelFunc
	workers                      sync.WaitGroup
	operations, grants, refusals atomic.Int64
	holders                      []atomic.Int64 // the pull request that believes it holds a path

	mu     sync.Mutex
	failed error
}

func newModeLoad(tb testing.TB, f *modes, callers, paths int) *modeLoad {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	l := &modeLoad{cancel: cancel, holders: make([]atomic.Int64, paths)}
	tb.Cleanup(l.stop)
	for worker := range callers {
		l.workers.Go(func() {
			for ctx.Err() == nil {
				if err := l.once(f.adapters[worker%len(f.adapters)], worker+1); err != nil {
					l.mu.Lock()
					l.failed = errors.Join(l.failed, err)
					l.mu.Unlock()
					return
				}
			}
		})
	}
	return l
}

func (l *modeLoad) stop() {
	l.cancel()
	l.workers.Wait()
}

func (l *modeLoad) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// once takes a lock and, if it gets it, releases it.
func (l *modeLoad) once(a *enhanced.LockingAdapter, pull int) error {
	n := rand.IntN(len(l.holders))
	lock := lockOf(project, pull, fmt.Sprintf("p%d", n))
	l.operations.Add(1)
	acquired, held, err := a.TryLock(lock)
	if err != nil {
		return fmt.Errorf("lock by %d: %w", pull, err)
	}
	// A copy of its lock before can be in the legacy database still: then it is told, as by
	// stock, that it has the lock itself.
	if !acquired && held.Pull.Num != pull {
		l.refusals.Add(1)
		return nil
	}
	l.grants.Add(1)
	if !l.holders[n].CompareAndSwap(0, int64(pull)) {
		return fmt.Errorf("p%d was granted to %d while %d had it", n, pull, l.holders[n].Load())
	}
	l.holders[n].Store(0)
	l.operations.Add(1)
	released, err := a.UnlockIfOwnedByPull(lock.Project, lock.Workspace, pull)
	if err != nil {
		return fmt.Errorf("unlock by %d: %w", pull, err)
	}
	if released == nil {
		return fmt.Errorf("p%d was not held by %d, to whom it was granted", n, pull)
	}
	return nil
}
