package tests

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// oneFileModes is a fleet in mode shadow whose databases are in one file.
func oneFileModes(t *testing.T) *modes {
	t.Helper()
	f := modeStores()["one file"](t).start(t, 1)
	f.set(t, enhanced.ModeShadow)
	return f
}

// Where both databases are in one file the adapter decides by the records of Atlantis'
// own database itself. It answers as stock does, and leaves what stock leaves.
func TestModesAnswerAsStockInOneFile(t *testing.T) {
	t.Parallel()
	f := oneFileModes(t)
	stock, err := boltdb.New(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stock.Close()) })
	for _, d := range []db.Database{stock, f.adapters[0]} {
		take(t, d, lockOf(project+"-prod", 1, "a"))
		freed, err := d.UnlockByPull(project, 1)
		require.NoError(t, err)
		require.Len(t, freed, 1, "stock looks at the beginning of the key only")
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, seed))
	for i := range 120 {
		step := stockStep(random)
		wanted, got := step(stock), step(f.adapters[0])
		require.Equal(t, wanted, got, "seed %d, step %d", seed, i)
	}
	wanted, err := stock.List()
	require.NoError(t, err)
	left, err := f.legacy.List()
	require.NoError(t, err)
	assert.Equal(t, heldIn(wanted...), heldIn(left...), "seed %d", seed)
	for _, lock := range left {
		assert.Empty(t, lock.Pull.BaseRepo.CloneURL, "it holds credentials")
	}
	fleet, err := f.manager.Fleet(t.Context())
	require.NoError(t, err)
	assert.Zero(t, fleet.Adapters[0].Differences, "%v", fleet.Adapters[0].Recent)
}

// stockStep is a call on few locks, with its answer as a text. The name of one of the
// repositories begins as the other's.
func stockStep(random *rand.Rand) func(db.Database) string {
	repository := []string{project, project + "-prod"}[random.IntN(2)]
	pull := 1 + random.IntN(2)
	lock := lockOf(repository, pull, []string{"a", "b"}[random.IntN(2)])
	one := func(lock *models.ProjectLock, err error) string {
		if lock == nil {
			return fmt.Sprint(nil, err)
		}
		return fmt.Sprint(heldIn(*lock), err)
	}
	many := func(locks []models.ProjectLock, err error) string { return fmt.Sprint(heldIn(locks...), err) }
	switch random.IntN(8) {
	case 0:
		return func(d db.Database) string { return one(d.Unlock(lock.Project, lock.Workspace)) }
	case 1:
		return func(d db.Database) string { return one(d.UnlockIfOwnedByPull(lock.Project, lock.Workspace, pull)) }
	case 2:
		return func(d db.Database) string { return many(d.UnlockByPull(repository, pull)) }
	case 3:
		return func(d db.Database) string { return many(d.List()) }
	case 4:
		return func(d db.Database) string { return one(d.GetLock(lock.Project, lock.Workspace)) }
	default:
		return func(d db.Database) string {
			acquired, holder, err := d.TryLock(lock)
			return fmt.Sprint(acquired, heldIn(holder), err)
		}
	}
}

// heldIn are who holds what since when.
func heldIn(locks ...models.ProjectLock) []string {
	held := []string{}
	for _, l := range locks {
		held = append(held, fmt.Sprint(models.GenerateLockKey(l.Project, l.Workspace), l.Pull.Num, l.User.Username, l.Time.UnixNano()))
	}
	return held
}

// There, calls that come together share transactions: stock takes one for each.
func TestModesShareTransactionsInOneFile(t *testing.T) {
	t.Parallel()
	f := oneFileModes(t)
	transactions := func() (id int) {
		require.NoError(t, f.file.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }))
		return id
	}
	const callers = 16
	require.Eventually(t, func() bool {
		before := transactions()
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				lock := lockOf(project, 1, fmt.Sprint("p", i))
				acquired, _, err := f.adapters[0].TryLock(lock)
				assert.NoError(t, err)
				assert.True(t, acquired)
				_, err = f.adapters[0].UnlockIfOwnedByPull(lock.Project, lock.Workspace, 1)
				assert.NoError(t, err)
			})
		}
		all.Wait()
		return transactions()-before < 2*callers
	}, underLoad*10, underLoad/1000)
}

// A record that can't be read is held, and harms nobody else.
func TestModesBadRecordInOneFile(t *testing.T) {
	t.Parallel()
	f := oneFileModes(t)
	bad := lockOf(project, 1, "bad")
	require.NoError(t, f.file.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("runLocks")).Put([]byte(models.GenerateLockKey(bad.Project, bad.Workspace)), []byte("{"))
	}))
	a := f.adapters[0]
	requireNamed := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
		require.ErrorContains(t, err, models.GenerateLockKey(bad.Project, bad.Workspace))
	}
	_, _, err := a.TryLock(bad)
	requireNamed(err)
	_, err = a.Unlock(bad.Project, bad.Workspace)
	requireNamed(err)
	_, err = a.List()
	requireNamed(err)
	_, err = a.UnlockByPull(project, 1)
	requireNamed(err)
	_, err = a.GetLock(bad.Project, bad.Workspace)
	requireNamed(err)
	take(t, a, lockOf(project, 1, "good"))
	f.requireHolders(t, "good", 1, 1)
}
