package backends_test

import (
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// readInventory reads a file at rest.
func readInventory(t *testing.T, path string) (*backends.Inventory, error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	return backends.ReadBoltInventory(db)
}

func inventoryOwners(i *backends.Inventory) (owners []string) {
	for _, lock := range i.Locks {
		owners = append(owners, lock.Owner)
	}
	return owners
}

// Of two owners of one project the same one counts that counts for a backend, and
// the other is named; in a file of stock's, in one of ours, and in Redis.
func TestInventoryOfRivals(t *testing.T) {
	t.Parallel()
	path := rivalFile(t, rivalLock(6), rivalLock(5))
	requireOne := func(i *backends.Inventory, record string) {
		t.Helper()
		require.Equal(t, []string{"pr:github.com/org%2Fapp/6"}, inventoryOwners(i))
		require.Len(t, i.Problems, 1)
		require.Equal(t, record, i.Problems[0].Record)
		require.Contains(t, i.Problems[0].Detail, "pull request 5 on github.com also has")
		require.Equal(t, enhanced.NoTimeout, i.Locks[0].Lease)
		require.Empty(t, i.Locks[0].OriginalLock.Pull.BaseRepo.CloneURL)
	}
	i, err := readInventory(t, path)
	require.NoError(t, err)
	require.True(t, i.Stock)
	requireOne(i, "runLocks/"+oldKey)

	s := open(t, path, nil)
	_, err = s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	s.close(t)
	i, err = readInventory(t, path)
	require.NoError(t, err)
	require.False(t, i.Stock)
	require.NotZero(t, i.Token("org/app"))
	requireOne(i, "runLocks/"+oldKey)

	client := redistest.Start(t, redistest.Options{}).Client()
	require.NoError(t, client.MSet(t.Context(), "pr/"+oldKey+"/", mustJSON(rivalLock(6)), "pr/"+oldKey, mustJSON(rivalLock(5))).Err())
	i, err = backends.ReadRedisInventory(t.Context(), client, "atlantis:lock:")
	require.NoError(t, err)
	requireOne(i, "pr/"+oldKey)
	size, err := client.DBSize(t.Context()).Result()
	require.NoError(t, err)
	require.EqualValues(t, 2, size, "nothing is written")
	_, err = openRedis(t, client, nil).ListLocks(t.Context())
	require.NoError(t, err)
	i, err = backends.ReadRedisInventory(t.Context(), client, "atlantis:lock:")
	require.NoError(t, err)
	require.False(t, i.Stock)
	requireOne(i, "pr/"+oldKey)
	_, err = backends.ReadRedisInventory(t.Context(), client, "other:")
	require.ErrorContains(t, err, "in use with layout and prefix")
}

// A lease that has ended is left out, though nothing in the store has ended it,
// and with it the copy that stock sees.
func TestInventoryOfEndedLeases(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	client := redistest.Start(t, redistest.Options{}).Client()
	file := open(t, path, nil)
	for _, b := range []enhanced.Backend{openRedis(t, client, nil), file.ours} {
		_, _, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", ".", ""), Workspace: "default", User: models.User{Username: "ann"}, Timeout: time.Millisecond,
		})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		i, err := backends.ReadBoltInventory(file.db)
		return err == nil && len(i.Locks) == 0 && len(i.Problems) == 0
	}, 10*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		i, err := backends.ReadRedisInventory(t.Context(), client, "atlantis:lock:")
		return err == nil && len(i.Locks) == 0 && len(i.Problems) == 0
	}, 10*time.Second, 5*time.Millisecond)
	copied, err := client.Exists(t.Context(), "pr/org/app/./default/").Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, copied, "it is there still")
}

func TestInventoryOfNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = readInventory(t, path)
	require.ErrorIs(t, err, backends.ErrNoLocks)
	i, err := backends.ReadRedisInventory(t.Context(), redistest.Start(t, redistest.Options{}).Client(), "atlantis:lock:")
	require.NoError(t, err)
	require.True(t, i.Stock)
	require.Empty(t, i.Locks)
}
