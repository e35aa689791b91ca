package backends

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A repair goes by the file, whatever the backend knew of the repository before.
func TestARepairForgetsWhatWasKnown(t *testing.T) {
	t.Parallel()
	for _, letter := range rareRanges() {
		t.Run(string(letter), func(t *testing.T) {
			t.Parallel()
			b := openInternal(t, enhanced.DefaultConfig())
			lock, err := b.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Project: models.NewProject("org/app", ".", ""), Workspace: "default", User: models.User{Username: "ann"},
			})
			require.NoError(t, err)
			require.NoError(t, b.db.Update(func(tx *bbolt.Tx) error {
				return repositoryBucket(tx, enhanced.RepositoryTag("org/app")).Put([]byte{letter, 'x'}, []byte("x"))
			}))
			found, err := b.Verify(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, found)
			repaired, err := b.Repair(t.Context(), "user:admin", "a test")
			require.NoError(t, err)
			require.NotEmpty(t, repaired)
			found, err = b.Verify(t.Context())
			require.NoError(t, err)
			require.Empty(t, found)
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			require.NoError(t, b.db.View(func(tx *bbolt.Tx) error {
				kept := tx.Bucket([]byte(quarantineBucket))
				if kept == nil { // it was removed
					return nil
				}
				return kept.ForEach(func(where, value []byte) error {
					require.Equal(t, "x", string(value), "%q", where)
					return nil
				})
			}))
		})
	}
}
