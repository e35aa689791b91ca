package backends_test

import (
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestRequestsAreForgottenInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "a.db"), nil)
		r := request(stockLock("org/app", 5, "."))
		r.ID = "one"
		lock, err := s.ours.AcquireLock(t.Context(), r)
		require.NoError(t, err)

		// As long as the lock is held, and for ten minutes after.
		advance(24 * time.Hour)
		again, err := s.ours.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, lock, again)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
		advance(10*time.Minute - time.Microsecond)
		churn(t, s)
		_, err = s.ours.AcquireLock(t.Context(), r)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))

		advance(time.Microsecond)
		churn(t, s)
		require.ErrorIs(t, s.ours.ReleaseLock(t.Context(), lock.ID), enhanced.ErrLockNotFound)
		_, err = s.ours.AcquireLock(t.Context(), r)
		require.NoError(t, err)
	})
}

// churn takes and releases a lock: steps forget what is due.
func churn(t *testing.T, s *opened) {
	t.Helper()
	lock, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 6, "other")))
	require.NoError(t, err)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
}

func TestTheMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "a.db"), nil)
		for range 300 {
			churn(t, s)
			advance(time.Minute)
		}
		require.LessOrEqual(t, countKeys(t, s.db, "org/app", 'f'), 12)
		require.LessOrEqual(t, countKeys(t, s.db, "org/app", 'i'), 12)
		require.LessOrEqual(t, countKeys(t, s.db, "org/app", 'r'), 12)

		// Where nothing happens any more, clean-up forgets.
		advance(time.Hour)
		for i := range 20 {
			_, err := s.ours.CleanupExpiredLocks(t.Context())
			require.NoError(t, err, strconv.Itoa(i))
		}
		require.Zero(t, countKeys(t, s.db, "org/app", 'r'))
	})
}

func countKeys(t *testing.T, db *bbolt.DB, repository string, letter byte) (n int) {
	t.Helper()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte("enhanced")).Bucket([]byte(enhanced.RepositoryTag(repository)))
		return bucket.ForEach(func(key, _ []byte) error {
			if key[0] == letter {
				n++
			}
			return nil
		})
	}))
	return n
}
