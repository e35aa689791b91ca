package tests

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

const (
	// differentialSeeds are fixed; one more is random.
	differentialSeeds = 20
	// Each seed makes this many sequences of this many calls on the average.
	sequencesPerSeed = 20
	callsPerSequence = 280
	// leastCalls is how many calls of the fixed seeds there must have been.
	leastCalls = 100_000
)

// The same calls go to Atlantis' own client on its own database and on ours,
// each on a file of its own, and get the same answers, but for the differences
// that docs/compatibility.md lists. To run one seed only, with its shrunken
// sequence when it fails: -run TestDifferentialBolt -rapid.seed=N.
func TestDifferentialBolt(t *testing.T) {
	differentialRun{
		seeds: differentialSeeds, sequences: sequencesPerSeed, steps: callsPerSequence, least: leastCalls,
		expected: append(listedDifferences(), listedLong), open: newDifferential,
	}.run(t)
}

// differentialRun is random sequences of calls on stock and on ours.
type differentialRun struct {
	// seeds are fixed, and each makes this many sequences; one more is random.
	seeds, sequences int
	// steps is how many calls a sequence has on the average.
	steps int
	// least is how many calls of the fixed seeds there must be.
	least int
	// expected are the listed differences of which each must be met, if any.
	expected []string
	// open makes new stores for a sequence. It is given a folder for all of a seed.
	open func(t *rapid.T, dir string, listed map[string]int) *differential
}

func (r differentialRun) run(t *testing.T) {
	t.Helper()
	seeds := []uint64{}
	if given := flag.Lookup("rapid.seed").Value.String(); given != "0" {
		seed, err := strconv.ParseUint(given, 10, 64)
		require.NoError(t, err)
		seeds = append(seeds, seed)
	} else {
		for seed := range uint64(r.seeds) { //nolint:gosec // a count
			// rapid takes the numbers above for the further sequences.
			seeds = append(seeds, 1000*(seed+1))
		}
		seeds = append(seeds, uint64(time.Now().UnixNano())) //nolint:gosec // any number will do
	}
	setRapid(t, "rapid.checks", strconv.Itoa(r.sequences))
	setRapid(t, "rapid.steps", strconv.Itoa(r.steps))
	setRapid(t, "rapid.shrinktime", "5s")
	calls := 0
	listed := make(map[string]int)
	for i, seed := range seeds {
		setRapid(t, "rapid.seed", strconv.FormatUint(seed, 10))
		if i == r.seeds {
			t.Logf("%d calls of the fixed seeds", calls)
			require.GreaterOrEqual(t, calls, r.least, "the run is void")
			t.Logf("random seed %d", seed)
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			dir := t.TempDir()
			rapid.Check(t, func(rt *rapid.T) {
				d := r.open(rt, dir, listed)
				defer d.close(rt)
				rt.Repeat(map[string]func(*rapid.T){"call": func(rt *rapid.T) { d.call(rt); calls++ }})
				d.compareAll(rt)
			})
		})
	}
	t.Logf("%d calls, listed differences: %v", calls, listed)
	if len(seeds) > 1 {
		for _, difference := range r.expected {
			require.Positive(t, listed[difference], "never met, so the test does not see it: %s", difference)
		}
	}
}

// setRapid sets one of rapid's flags until the test ends.
func setRapid(t *testing.T, name, value string) {
	t.Helper()
	before := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, value))
	t.Cleanup(func() { require.NoError(t, flag.Set(name, before)) })
}

// differential is stock and ours side by side.
type differential struct {
	stock, ours differentialSide
	// listed counts the listed differences that were met, by their wording.
	listed map[string]int
	// long is how the list says that stock takes too long a name.
	long string
	// unordered says that stock's locks come in any order.
	unordered bool
}

type differentialSide struct {
	db.Database
	client *locking.Client
	// closeStore closes what the database leaves open.
	closeStore func() error
}

// openUnsynced opens a new file that is not synced to the disk. Syncing is the
// same for both sides and costs nearly all of the time; nothing here depends on
// what survives a crash. No other test, and no user, does this.
func openUnsynced(t require.TestingT, dir, name string) *bbolt.DB {
	path := filepath.Join(dir, name)
	require.NoError(t, os.RemoveAll(path))
	file, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoGrowSync: true, Timeout: time.Second})
	require.NoError(t, err)
	return file
}

func newDifferential(t *rapid.T, dir string, listed map[string]int) *differential {
	stockFile, ourFile := openUnsynced(t, dir, "stock.db"), openUnsynced(t, dir, "ours.db")
	require.NoError(t, stockFile.Update(func(tx *bbolt.Tx) error {
		for _, bucket := range []string{"runLocks", "pulls", "globalLocks"} {
			if _, err := tx.CreateBucket([]byte(bucket)); err != nil {
				return err
			}
		}
		return nil
	}))
	stock, err := boltdb.NewWithDB(stockFile, "runLocks", "globalLocks")
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.Enabled = true
	backend, err := backends.NewBoltBackend(ourFile, config, nil)
	require.NoError(t, err)
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	ours := enhanced.NewLockingAdapter(manager, backend, config, nil, nil)
	return &differential{
		stock:  differentialSide{stock, locking.NewClient(stock), stock.Close},
		ours:   differentialSide{ours, locking.NewClient(ours), ourFile.Close},
		listed: listed,
		long:   listedLong,
	}
}

func (d *differential) close(t *rapid.T) {
	require.NoError(t, d.ours.Close())
	require.NoError(t, d.ours.closeStore())
	require.NoError(t, d.stock.closeStore())
}

// call makes one call on both sides.
func (d *differential) call(t *rapid.T) {
	switch pick(t, "call", []weighted[string]{
		{30, "TryLock"}, {12, "Unlock"}, {10, "GetLock"}, {5, "List"}, {12, "UnlockIfOwnedByPull"}, {6, "UnlockByPull"},
		{7, "UpdatePullWithResults"}, {5, "GetPullStatus"}, {4, "UpdateProjectStatus"}, {3, "DeletePullStatus"},
		{3, "LockCommand"}, {3, "UnlockCommand"}, {2, "CheckCommandLock"},
	}) {
	case "TryLock":
		d.tryLock(t)
	case "Unlock":
		d.unlock(t)
	case "GetLock":
		d.getLock(t, drawKey(t))
	case "List":
		d.list(t)
	case "UnlockIfOwnedByPull":
		d.unlockIfOwnedByPull(t)
	case "UnlockByPull":
		d.unlockByPull(t)
	case "UpdatePullWithResults":
		pull, results := drawPull(t), drawResults(t)
		stock, stockErr := d.stock.UpdatePullWithResults(pull, results)
		ours, ourErr := d.ours.UpdatePullWithResults(pull, results)
		d.compare(t, "UpdatePullWithResults", answer{d.stockStatus(&stock), stockErr}, answer{&ours, ourErr})
	case "GetPullStatus":
		pull := drawPull(t)
		stock, stockErr := d.stock.GetPullStatus(pull)
		ours, ourErr := d.ours.GetPullStatus(pull)
		d.compare(t, "GetPullStatus", answer{d.stockStatus(stock), stockErr}, answer{ours, ourErr})
	case "UpdateProjectStatus":
		pull, workspace, dir := drawPull(t), drawWorkspace(t), drawPath(t)
		to := rapid.SampledFrom([]models.ProjectPlanStatus{models.ErroredPlanStatus, models.AppliedPlanStatus, models.DiscardedPlanStatus}).Draw(t, "status")
		d.compareErrors(t, "UpdateProjectStatus",
			d.stock.UpdateProjectStatus(pull, workspace, dir, to), d.ours.UpdateProjectStatus(pull, workspace, dir, to))
	case "DeletePullStatus":
		pull := drawPull(t)
		d.compareErrors(t, "DeletePullStatus", d.stock.DeletePullStatus(pull), d.ours.DeletePullStatus(pull))
	case "LockCommand":
		name := drawCommand(t)
		at := time.Now()
		stock, stockErr := d.stock.LockCommand(name, at)
		ours, ourErr := d.ours.LockCommand(name, at)
		d.compare(t, "LockCommand", answer{stock, stockErr}, answer{ours, ourErr})
	case "UnlockCommand":
		name := drawCommand(t)
		d.compareErrors(t, "UnlockCommand", d.stock.UnlockCommand(name), d.ours.UnlockCommand(name))
	case "CheckCommandLock":
		name := drawCommand(t)
		stock, stockErr := d.stock.CheckCommandLock(name)
		ours, ourErr := d.ours.CheckCommandLock(name)
		d.compare(t, "CheckCommandLock", answer{stock, stockErr}, answer{ours, ourErr})
	}
}
