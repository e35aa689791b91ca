package backends_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
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
