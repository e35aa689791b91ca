package tests

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Stock's boltdb decodes a lock after its transaction has ended: without the
// adapter's help, a write at that moment ends the process or damages the answer.
func TestLegacyFileIsReadWhileItGrows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		oneFile bool
		// writer is who writes beside the adapter that reads.
		writer func(*enhanced.LockingAdapter, *boltdb.BoltDB) db.Database
	}{
		"a file of its own, by the adapter": {
			writer: func(adapter *enhanced.LockingAdapter, _ *boltdb.BoltDB) db.Database { return adapter },
		},
		"the store's file, by somebody else": {
			oneFile: true,
			writer:  func(_ *enhanced.LockingAdapter, stock *boltdb.BoltDB) db.Database { return stock },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := openFile(t)
			config := enhanced.DefaultConfig()
			config.Enabled = false
			backend, err := backends.NewBoltBackend(file, config, nil)
			require.NoError(t, err)
			defer func() { require.NoError(t, backend.Close()) }()
			var stock *boltdb.BoltDB
			if test.oneFile {
				stock, err = boltdb.NewWithDB(file, "runLocks", "globalLocks")
			} else {
				stock, err = boltdb.New(t.TempDir())
			}
			require.NoError(t, err)
			adapter := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, stock, nil)
			defer func() { require.NoError(t, adapter.Close()) }()
			readWhileItGrows(t, adapter, test.writer(adapter, stock))
		})
	}
}

func readWhileItGrows(t *testing.T, reader, writer db.Database) {
	t.Helper()
	long := strings.Repeat("x", 20_000) // so that the file is mapped anew
	ended := make(chan struct{})
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				locks, err := reader.List()
				assert.NoError(t, err)
				for _, lock := range locks {
					assert.Equal(t, long, lock.User.Username)
				}
				lock, err := reader.GetLock(lockOf(project, 1, "p0").Project, "default")
				assert.NoError(t, err)
				if lock != nil {
					assert.Equal(t, long, lock.User.Username)
				}
			}
		})
	}
	for range 2 {
		for i := range 60 {
			lock := lockOf(project, 1, "p"+strconv.Itoa(i))
			lock.User.Username = long
			acquired, _, err := writer.TryLock(lock)
			require.NoError(t, err)
			require.True(t, acquired)
		}
		_, err := writer.UnlockByPull(project, 1)
		require.NoError(t, err)
	}
	close(ended)
	reading.Wait()
}
