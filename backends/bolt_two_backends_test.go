package backends

import (
	"errors"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Two backends on one open file, as two adapters of a fleet have: what one has written
// counts for the other, whatever that knew of the repository before.
func TestBoltBackendsOnOneFile(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	a, err := NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	b, err := NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(a.Close(), b.Close(), db.Close())) })

	ask := func(path string, number int) *enhanced.EnhancedLockRequest {
		return &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", path, ""), Workspace: "default", Detached: true,
			Timeout: enhanced.NoTimeout, Pull: &models.PullRequest{Num: number, HeadCommit: "abc"},
		}
	}
	try := func(on *BoltBackend, path string, number int) (bool, error) {
		_, acquired, err := on.TryAcquireLock(t.Context(), ask(path, number))
		return acquired, err
	}
	take := func(on *BoltBackend, path string, number int) {
		t.Helper()
		acquired, err := try(on, path, number)
		require.NoError(t, err)
		require.True(t, acquired)
	}
	release := func(on *BoltBackend, path string, number int, reserve bool) {
		t.Helper()
		_, err := on.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: enhanced.ProjectResource(models.NewProject("org/app", path, ""), "default"),
			Owner:    enhanced.PullOwner("", "org/app", number).String(), Reserve: reserve,
		})
		require.NoError(t, err)
	}
	// Both know the repository, and that nothing else is there.
	take(a, "a", 1)
	take(b, "b", 2)

	acquired, err := try(b, "a", 3)
	require.NoError(t, err)
	require.False(t, acquired)
	release(a, "a", 1, false)
	lock, err := a.LookupLock(t.Context(), enhanced.ProjectResource(models.NewProject("org/app", "a", ""), "default"))
	require.NoError(t, err, "who has waited through the other one is passed over")
	require.Equal(t, enhanced.PullOwner("", "org/app", 3).String(), lock.Owner)

	acquired, err = try(a, "b", 4)
	require.NoError(t, err)
	require.False(t, acquired)
	release(b, "b", 2, true)
	acquired, err = try(a, "b", 5)
	require.NoError(t, err)
	require.False(t, acquired, "it is reserved")

	require.NoError(t, b.ClosePull(t.Context(), enhanced.PullOwner("", "org/app", 6), "abc"))
	_, err = try(a, "c", 6)
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)

	take(b, "d", 7)
	released, err := a.ReleaseByPull(t.Context(), "org/app", 7, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.Len(t, released, 1)

	once := ask("e", 8)
	once.ID = "once"
	first, _, err := a.TryAcquireLock(t.Context(), once)
	require.NoError(t, err)
	again, acquired, err := b.TryAcquireLock(t.Context(), once)
	require.NoError(t, err)
	require.True(t, acquired)
	require.Equal(t, first.ID, again.ID)
}
