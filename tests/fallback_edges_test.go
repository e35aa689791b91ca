package tests

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A bbolt file has one process, which needs no confirmation.
func TestFallbackFromAFile(t *testing.T) {
	t.Parallel()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "locks.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	s := &site{legacy: legacyFile(t), config: enhanced.DefaultConfig()}
	s.config.Enabled = true
	backend, err := backends.NewBoltBackend(file, s.config, nil)
	require.NoError(t, err)
	adapter := s.startOn(t, backend, s.legacy)
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	require.Equal(t, enhanced.FallbackReady, adapter.Fallback().State, adapter.Fallback().Reason)
	require.Equal(t, 5, s.inLegacy(t, "x"))
	lock := lockOf(fallbackRepo, 6, "y")
	_, acquired, err := backend.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
		Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout,
	})
	require.NoError(t, err)
	require.True(t, acquired)
	backendtest.Eventually(t, "the legacy database has it, too", func() bool { return s.inLegacy(t, "y") == 6 })

	require.NoError(t, file.Close()) // the store fails
	for _, path := range []string{"x", "y"} {
		acquired, _ := tryFor(t, adapter, 7, path)
		require.False(t, acquired)
	}
	acquired, _ = tryFor(t, adapter, 7, "z")
	require.True(t, acquired)
	require.Equal(t, enhanced.FallbackOpen, adapter.Fallback().State)
}

// What can't be brought into the store is kept from everybody, and keeps nothing
// else.
func TestFallbackUnsettled(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	refusing := &refusingStore{RedisBackend: s.backend(t)}
	adapter := s.startOn(t, refusing, s.legacy)
	take(t, adapter, lockOf("org/warm", 1, "."))
	s.cut()
	for _, path := range []string{"x", "y"} {
		acquired, _ := tryFor(t, adapter, 5, path)
		require.True(t, acquired)
	}
	refusing.refuses.Store(true)
	s.proxy.Heal()
	backendtest.Eventually(t, "the store decides again", func() bool { return adapter.Fallback().State == enhanced.FallbackReady })
	require.Len(t, adapter.Fallback().Unsettled, 2)
	for _, number := range []int{5, 6} {
		_, _, err := adapter.TryLock(lockOf(fallbackRepo, number, "x"))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.ErrorContains(t, err, "counts as locked")
	}
	take(t, adapter, lockOf("org/else", 6, "."))

	// A person gives one up.
	_, err := adapter.Unlock(models.NewProject(fallbackRepo, "x", ""), "default")
	require.NoError(t, err)
	require.Zero(t, s.inLegacy(t, "x"))
	require.Len(t, adapter.Fallback().Unsettled, 1)
	refusing.refuses.Store(false)
	acquired, _ := tryFor(t, adapter, 6, "x")
	require.True(t, acquired)
	backendtest.Eventually(t, "the other one is settled", func() bool { return len(adapter.Fallback().Unsettled) == 0 })
	require.Equal(t, pullText(5), s.inStore(t, "y"))
}

// refusingStore refuses, if told to, what the legacy database granted.
type refusingStore struct {
	*backends.RedisBackend
	refuses atomic.Bool
}

func (s *refusingStore) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	if s.refuses.Load() && request.Resource.Namespace == fallbackRepo {
		return nil, false, enhanced.NewInvalidError("%s may not lock", request.Owner().Describe())
	}
	return s.RedisBackend.TryAcquireLock(ctx, request)
}

// Two projects with one of stock's keys exclude each other as in stock: the
// legacy database can hold one of them.
func TestFallbackOfOneKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := s.ready(t)
	take(t, adapter, models.ProjectLock{Project: models.NewProject("org/app", "a", ""), Workspace: "b/c", Pull: lockOf("org/app", 5, ".").Pull})
	other := models.ProjectLock{Project: models.NewProject("org/app", "a/b", ""), Workspace: "c", Pull: lockOf("org/app", 6, ".").Pull}
	acquired, holder, err := adapter.TryLock(other)
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, 5, holder.Pull.Num)
	// Somebody else has both, and the legacy database can't say so.
	request := &enhanced.EnhancedLockRequest{Project: other.Project, Workspace: other.Workspace, Pull: &other.Pull, Timeout: enhanced.NoTimeout}
	_, acquired, err = s.other.TryAcquireLock(t.Context(), request)
	require.NoError(t, err)
	require.True(t, acquired)
	s.takeElsewhere(t, 7, "later", enhanced.NoTimeout)
	backendtest.Eventually(t, "the log is followed", func() bool { return s.inLegacy(t, "later") == 7 })
	s.cut()
	_, err = adapter.Unlock(models.NewProject("org/app", "a", ""), "b/c")
	require.ErrorContains(t, err, "not up to date on it")
	acquired, _ = tryFor(t, adapter, 8, "x")
	require.True(t, acquired, "of others it is known")
}
