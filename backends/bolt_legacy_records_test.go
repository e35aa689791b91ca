package backends_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// What is changed among stock's records counts at once, as what stock changes does; an
// error undoes a change; and who only reads changes nothing.
func TestBoltLegacyRecords(t *testing.T) {
	t.Parallel()
	backend := openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), nil)
	held := func() (paths []string) {
		locks, err := backend.ListLocks(t.Context())
		require.NoError(t, err)
		for _, lock := range locks {
			paths = append(paths, lock.Resource.Path)
		}
		return paths
	}
	require.Empty(t, held())
	lock := stockLock("org/app", 1, "a")
	key := models.GenerateLockKey(lock.Project, lock.Workspace)
	value, err := json.Marshal(lock)
	require.NoError(t, err)
	put := func(records enhanced.LegacyRecords) error { return records.Put(key, value) }

	broken := errors.New("broken")
	require.ErrorIs(t, backend.ChangeLegacyRecords(t.Context(), func(records enhanced.LegacyRecords) error {
		return errors.Join(put(records), broken)
	}), broken)
	require.Error(t, backend.ReadLegacyRecords(t.Context(), put))
	require.Empty(t, held())

	require.NoError(t, backend.ChangeLegacyRecords(t.Context(), put))
	require.Equal(t, []string{"a"}, held())
	require.NoError(t, backend.ReadLegacyRecords(t.Context(), func(records enhanced.LegacyRecords) error {
		require.NotEmpty(t, records.Get(key))
		return nil
	}))
	require.NoError(t, backend.ChangeLegacyRecords(t.Context(), func(records enhanced.LegacyRecords) error { return records.Delete(key) }))
	require.Empty(t, held())
}

// The buckets of a store in use are known, and a caller's own ones are not.
func TestBoltUnknownBuckets(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	backend, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	defer backend.Close()
	require.NoError(t, backend.ChangeLegacyRecords(t.Context(), func(records enhanced.LegacyRecords) error {
		return records.Put("org/app/a/default/", []byte("{")) // for the quarantine
	}))
	require.NotEmpty(t, must(backend.Repair(t.Context(), "user:admin", "test")))
	require.NoError(t, backend.ChangeLegacyRecords(t.Context(), func(records enhanced.LegacyRecords) error {
		lock := stockLock("org/app", 1, "a")
		value, err := json.Marshal(lock)
		return errors.Join(err, records.Put(models.GenerateLockKey(lock.Project, lock.Workspace), value))
	}))
	require.Len(t, must(backend.ListLocks(t.Context())), 1)
	require.Empty(t, must(backend.UnknownBuckets(t.Context())))
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("otherLocks"))
		return err
	}))
	require.Equal(t, []string{"otherLocks"}, must(backend.UnknownBuckets(t.Context())))
}
