package backends

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// spareFile is a backend on a new file that notes how long the file was, in pages, at the
// start of each transaction.
type spareFile struct {
	*BoltBackend
	pages []int
}

func newSpareFile(t *testing.T) *spareFile {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, &bbolt.Options{
		NoSync: true, InitialMmapSize: 1 << 22, // so that nobody waits for a reader
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	f := &spareFile{BoltBackend: b}
	run := b.committer.run
	b.committer.run = func(batch *batch, step func(*batch) error) error {
		f.pages = append(f.pages, int(batch.tx.Size())/os.Getpagesize())
		return run(batch, step)
	}
	return f
}

// pairs takes and releases a lock some times.
func (f *spareFile) pairs(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	for range n {
		lock, err := f.AcquireLock(ctx, &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", "a", ""), Workspace: "default", Timeout: enhanced.NoTimeout,
			User: models.User{Username: "user"},
		})
		require.NoError(t, err)
		require.NoError(t, f.ReleaseLock(ctx, lock.ID))
	}
}

// growths returns by how many pages the file became longer, each time that it did.
func (f *spareFile) growths() (grown []int) {
	for i := 1; i < len(f.pages); i++ {
		if n := f.pages[i] - f.pages[i-1]; n > 0 {
			grown = append(grown, n)
		}
	}
	return grown
}

// Locks one after the other don't make a file longer by a page at a time: that is done in
// advance, many pages at a time.
func TestBoltGetsPagesInAdvance(t *testing.T) {
	t.Parallel()
	for name, canEnd := range map[string]bool{"by a loop": true, "by the caller": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			if canEnd {
				ctx = t.Context()
			}
			f := newSpareFile(t)
			f.pairs(t, ctx, 800)
			require.NoError(t, f.Close())
			grown := f.growths()
			require.GreaterOrEqual(t, len(grown), 2)
			for _, n := range grown[1:] { // a new file has no free page for the first lock
				require.GreaterOrEqual(t, n, minSpare)
				require.LessOrEqual(t, n, maxSpare+2)
			}
			require.NoError(t, f.db.View(func(tx *bbolt.Tx) error {
				require.Nil(t, tx.Bucket(spareBucket()))
				for err := range tx.Check() {
					t.Error(err)
				}
				return nil
			}))
			violations, err := VerifyBolt(f.db)
			require.NoError(t, err)
			require.Empty(t, violations)
		})
	}
}

// While somebody reads, pages would not get free, and a file that gets longer can have all
// who write wait.
func TestBoltGetsNoPagesWhileSomebodyReads(t *testing.T) {
	t.Parallel()
	f := newSpareFile(t)
	reader, err := f.db.Begin(false)
	require.NoError(t, err)
	f.pairs(t, t.Context(), 20)
	require.NoError(t, reader.Rollback())
	for _, n := range f.growths() {
		require.Less(t, n, minSpare)
	}
	backendtest.Eventually(t, "it gets pages", func() bool {
		f.pairs(t, t.Context(), 1)
		stats := f.db.Stats()
		return stats.FreePageN+stats.PendingPageN >= minSpare
	})
}

// What a process that died has left of it does no harm, and is removed.
func TestBoltRemovesWhatIsLeftOfPagesInAdvance(t *testing.T) {
	t.Parallel()
	f := newSpareFile(t)
	f.pairs(t, t.Context(), 1)
	leave := func() {
		require.NoError(t, f.db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists(spareBucket())
			require.NoError(t, err)
			return bucket.Put(present(), make([]byte, 1<<20))
		}))
		unknown, err := f.UnknownBuckets(t.Context())
		require.NoError(t, err)
		require.Empty(t, unknown)
		violations, err := VerifyBolt(f.db)
		require.NoError(t, err)
		require.Empty(t, violations)
	}
	isLeft := func() (left bool) {
		require.NoError(t, f.db.View(func(tx *bbolt.Tx) error {
			left = tx.Bucket(spareBucket()) != nil
			return nil
		}))
		return left
	}
	backendtest.Eventually(t, "the committer rests", func() bool { return !f.committer.is(&f.committer.looping) })
	leave()
	f.committer.getPages() // the next time that pages are few
	require.False(t, isLeft())
	leave()
	_, err := NewBoltBackend(f.db, nil, nil)
	require.NoError(t, err)
	require.False(t, isLeft())
}

// It is no change of stock's, and nothing else is read again for it.
func TestBoltPagesInAdvanceChangeNothing(t *testing.T) {
	t.Parallel()
	f := newSpareFile(t)
	f.pairs(t, t.Context(), 1)
	backendtest.Eventually(t, "the committer rests", func() bool { return !f.committer.is(&f.committer.looping) })
	_, err := f.reconcile(t.Context(), "")
	require.NoError(t, err)
	known := f.memories[enhanced.RepositoryTag("org/app")]
	f.committer.getPages()
	f.pairs(t, t.Context(), 1)
	require.Same(t, known, f.memories[enhanced.RepositoryTag("org/app")])
	require.NoError(t, f.db.View(func(tx *bbolt.Tx) error {
		_, clean := f.clean.get(tx.ID(), "")
		require.True(t, clean)
		return nil
	}))
}
