package backends_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// What stock Atlantis has locked in the file is in the way of a set, and is the
// pull request's own when it replaces its locks.
func TestBoltSetsBesideStock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	stock, err := boltdb.NewWithDB(db, "runLocks", "globalLocks")
	require.NoError(t, err)
	for number, path := range map[int]string{5: "mine", 6: "other"} {
		acquired, _, err := stock.TryLock(stockLock("org/app", number, path))
		require.NoError(t, err)
		require.True(t, acquired)
	}
	_, err = b.AcquireAll(ctx, requestsOf("a", "other", "mine"), false)
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	for _, text := range []string{"2 of 3", "pull request 5", "pull request 6"} {
		require.ErrorContains(t, err, text)
	}
	replaced, err := b.ReplaceAll(ctx, "org/app", enhanced.PullOwner("github.com", "org/app", 5), requestsOf("a"))
	require.NoError(t, err)
	require.Len(t, replaced.Taken, 1)
	require.Len(t, replaced.Freed, 1)
	there, err := stock.GetLock(stockLock("org/app", 5, "mine").Project, "default")
	require.NoError(t, err)
	require.Nil(t, there)
	violations, err := b.Verify(ctx)
	require.NoError(t, err)
	require.Empty(t, violations)
}

// Two projects that are one in stock's form are no set.
func TestBoltSetsWithTheSameKey(t *testing.T) {
	t.Parallel()
	b := openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), nil)
	one, same := stockLock("org/app", 5, "a/b"), stockLock("org/app", 5, "a")
	one.Workspace, same.Workspace, same.Project.ProjectName = "c", "b", "c/"
	_, err := b.AcquireAll(t.Context(), []*enhanced.EnhancedLockRequest{request(one), request(same)}, false)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "one lock in Atlantis' own form")
}

// A backend that is closed ends the calls that wait for a set, and what they have
// left is in nobody's way when the file is opened again.
func TestBoltSetsClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.SetReserveAfter = true, time.Nanosecond
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), by("org/app", "b", "ann"))
	require.NoError(t, err)
	answer := make(chan error, 1)
	go func() {
		_, err := b.AcquireAll(t.Context(), requestsOf("a", "b"), true)
		answer <- err
	}()
	backendtest.Eventually(t, "the set waits", func() bool {
		status, err := b.GetQueueStatus(t.Context())
		return err == nil && status.Size == 2
	})
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-answer, enhanced.ErrClosed)
	require.NoError(t, db.Close())

	again := openBolt(t, path, config)
	lock, err := again.AcquireLock(t.Context(), by("org/app", "a", "bob"))
	require.NoError(t, err, "nothing is kept for a set whose call has gone")
	require.Equal(t, "user:bob", lock.Owner)
	violations, err := again.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}
