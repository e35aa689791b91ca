package backends

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Remembered returns how many requests and ended locks of a repository the
// backend remembers.
func Remembered(b *BoltBackend, repository string) (n int) {
	_ = b.committer.do(context.Background(), "count", func(batch *batch) error {
		m := b.repositoryStep(batch, repository).memory()
		n = max(len(m.requests), len(m.endings), len(m.due))
		return nil
	})
	return n
}

// A step that is undone leaves no memory of what it did.
func TestAnUndoneStepIsNotRemembered(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	b, err := NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	defer b.Close()
	ask := func(id string) *enhanced.EnhancedLockRequest {
		r, err := enhanced.NormalizeRequest(&enhanced.EnhancedLockRequest{
			ID: id, Project: models.NewProject("org/app", "a", ""), Workspace: "default",
			User: models.User{Username: "alice"}, Timeout: enhanced.NoTimeout,
		}, 0, 0)
		require.NoError(t, err)
		return r
	}
	lock, err := b.AcquireLock(t.Context(), ask("first"))
	require.NoError(t, err)

	undone := errors.New("undone")
	err = b.committer.do(t.Context(), "test", func(batch *batch) error {
		s := b.repositoryStep(batch, "org/app")
		f, err := s.settleID(lock.ID, lock.Version)
		require.NoError(t, err)
		require.NoError(t, s.finish(f, change{actor: f.record.Owner, cause: enhanced.CauseRequest}))
		a, err := s.acquire(ask("second"), false)
		require.NoError(t, err)
		require.True(t, a.granted)
		return undone
	})
	require.ErrorIs(t, err, undone)
	require.Equal(t, 1, Remembered(b, "org/app"), "the lock that is held still")
	again, err := b.AcquireLock(t.Context(), ask("first"))
	require.NoError(t, err)
	require.Equal(t, lock.ID, again.ID)
	_, granted, err := b.TryAcquireLock(t.Context(), ask("second"))
	require.NoError(t, err)
	require.False(t, granted)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	_, granted, err = b.TryAcquireLock(t.Context(), ask("second"))
	require.NoError(t, err)
	require.True(t, granted)
}
