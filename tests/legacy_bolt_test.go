package tests

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Stock's boltdb decodes a lock after its transaction has ended: without the
// adapter's help, a write at that moment ends the process or damages the answer.
func TestLegacyFileIsReadWhileItGrows(t *testing.T) {
	t.Parallel()
	stock, err := boltdb.New(t.TempDir())
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.Enabled = false
	backend, err := backends.NewBoltBackend(openFile(t), config, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, backend.Close()) }()
	adapter := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, stock, nil)
	defer func() { require.NoError(t, adapter.Close()) }()

	long := strings.Repeat("x", 20_000) // grows the file, so that it is mapped anew
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
				locks, err := adapter.List()
				assert.NoError(t, err)
				for _, lock := range locks {
					assert.Equal(t, long, lock.User.Username)
				}
				lock, err := adapter.GetLock(lockOf(project, 1, "p0").Project, "default")
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
			acquired, _, err := adapter.TryLock(lock)
			require.NoError(t, err)
			require.True(t, acquired)
		}
		_, err := adapter.UnlockByPull(project, 1)
		require.NoError(t, err)
	}
	close(ended)
	reading.Wait()
}
