package backends_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A held lock takes less than one KB of the file, with stock's copy of it, its log
// record and all that leads to it.
func TestBytesOfTheFileALock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headCommit string
		most       int
	}{
		"short names":      {"", 870},
		"and a whole hash": {strings.Repeat("0123456789", 4), 970},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			locks := backendtest.Rounds(100_000)
			path := filepath.Join(t.TempDir(), "a.db")
			used := fillFile(t, path, locks, c.headCommit)
			info, err := os.Stat(path)
			require.NoError(t, err)
			t.Logf("%d locks: %d bytes a lock in pages that are in use, %d of the file", locks, used/locks, int(info.Size())/locks)
			require.LessOrEqual(t, used/locks, c.most)
			if locks == 100_000 { // bbolt makes a file longer by 16 MB at a time
				require.LessOrEqual(t, int(info.Size())/locks, 1_024)
			}
		})
	}
}

// fillFile takes locks, 2,000 in each repository, and returns how many bytes of the
// file are in use then.
func fillFile(t *testing.T, path string, locks int, headCommit string) (used int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	ours, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	var next atomic.Int64
	together(256, func(int) {
		for i := int(next.Add(1)) - 1; i < locks; i = int(next.Add(1)) - 1 {
			lock := heldLock(i, locks/2_000)
			lock.Pull.HeadCommit = headCommit
			if _, err := ours.AcquireLock(t.Context(), request(lock)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		stats := db.Stats()
		used = int(tx.Size()) - (stats.FreePageN+stats.PendingPageN)*os.Getpagesize()
		return nil
	}))
	require.NoError(t, ours.Close())
	require.NoError(t, db.Close())
	return used
}
