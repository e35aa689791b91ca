package tests

import (
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Where both databases are in one file, the grants of both are one transaction, and
// who asks one of them only is kept out.
func TestModesInOneFile(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
	require.NoError(t, err)
	f := (&modes{legacy: stock, newBackend: boltBackends(t, file), mirrored: true, file: file}).start(t, 1)
	transactions := func() (id int) {
		require.NoError(t, file.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }))
		return id
	}
	f.joinGone(t, enhanced.ModeFull, 1)
	_, err = f.manager.SwitchMode(t.Context(), enhanced.ModeOff, "user:ops", "test")
	require.NoError(t, err)
	fleet := f.until(t, func(fleet enhanced.Fleet) bool { return len(fleet.Behind()) == 1 })
	require.Equal(t, enhanced.Deciders{Legacy: true, Store: true}, fleet.Deciders())
	a := f.adapters[0]

	before := transactions()
	take(t, a, lockOf(project, 1, "a"))
	require.Equal(t, before+1, transactions())
	f.requireHolders(t, "a", 1, 1)
	refused(t, a, lockOf(project, 2, "a"), 1)
	refused(t, a, lockOf(project, 1, "a"), 1)
	before = transactions()
	released, err := a.UnlockIfOwnedByPull(lockOf(project, 1, "a").Project, "default", 1)
	require.NoError(t, err)
	require.Equal(t, 1, released.Pull.Num)
	require.Equal(t, before+1, transactions())
	f.requireHolders(t, "a", 0, 0)

	// What the legacy database alone grants and releases counts at once.
	granted, _, err := f.legacy.TryLock(lockOf(project, 3, "b"))
	require.NoError(t, err)
	require.True(t, granted)
	refused(t, a, lockOf(project, 4, "b"), 3)
	refused(t, a, lockOf(project, 3, "b"), 3)
	_, err = f.legacy.Unlock(lockOf(project, 3, "b").Project, "default")
	require.NoError(t, err)
	take(t, a, lockOf(project, 4, "b"))
	granted, holder, err := f.legacy.TryLock(lockOf(project, 3, "b"))
	require.NoError(t, err)
	require.False(t, granted)
	require.Equal(t, 4, holder.Pull.Num)
	freed, err := a.UnlockByPull(project, 4)
	require.NoError(t, err)
	require.Len(t, freed, 1)
	f.requireHolders(t, "b", 0, 0)
}

// Stock's database in the store's file can have its locks in a bucket that the store
// does not mirror. Then it is asked itself, and what it has granted counts.
func TestModesInOneFileWithAnotherBucket(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("otherLocks"))
		return err
	}))
	stock, err := boltdb.NewWithDB(file, "otherLocks", "globalLocks")
	require.NoError(t, err)
	f := (&modes{legacy: stock, newBackend: boltBackends(t, file), mirrored: true, file: file}).start(t, 1)
	a := f.adapters[0]
	f.set(t, enhanced.ModeOff)
	take(t, a, lockOf(project, 1, "a"))
	f.set(t, enhanced.ModeShadow)
	f.requireHolders(t, "a", 1, 1)
	refused(t, a, lockOf(project, 2, "a"), 1)
	take(t, a, lockOf(project, 3, "b"))
	f.requireHolders(t, "b", 3, 3)

	// Both are asked while one adapter may decide by the store.
	f.joinGone(t, enhanced.ModeFull, 1)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		fleet, err := a.Mode(t.Context())
		require.NoError(c, err)
		require.Equal(c, enhanced.Deciders{Legacy: true, Store: true}, fleet.Deciders())
	}, 30*time.Second, 20*time.Millisecond)
	granted, _, err := f.legacy.TryLock(lockOf(project, 4, "c"))
	require.NoError(t, err)
	require.True(t, granted)
	refused(t, a, lockOf(project, 5, "c"), 4)
	released, err := a.UnlockIfOwnedByPull(lockOf(project, 3, "b").Project, "default", 3)
	require.NoError(t, err)
	require.Equal(t, 3, released.Pull.Num)
	f.requireHolders(t, "b", 0, 0)
}
