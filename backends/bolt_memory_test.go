package backends_test

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
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
		require.LessOrEqual(t, backends.Remembered(s.ours, "org/app"), 12)

		// Where nothing happens any more, clean-up forgets.
		advance(time.Hour)
		_, err := s.ours.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		require.Zero(t, backends.Remembered(s.ours, "org/app"))
		require.Zero(t, countKeys(t, s.db, "org/app", 'f'))
	})
}

// A new process remembers what the one before it did, for as long, and whether
// the log has its records still or not.
func TestTheMemoryOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	for name, records := range map[string]int{"in the log": 100_000, "trimmed": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "a.db")
				config := enhanced.DefaultConfig()
				config.LogMaxRecords = records
				s := open(t, path, config)
				held, ended := request(stockLock("org/app", 5, "held")), request(stockLock("org/app", 5, "ended"))
				held.ID, ended.ID = "held", "ended"
				lock, err := s.ours.AcquireLock(t.Context(), held)
				require.NoError(t, err)
				released, err := s.ours.AcquireLock(t.Context(), ended)
				require.NoError(t, err)
				moved, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 7, "moved")))
				require.NoError(t, err)
				advance(24 * time.Hour)
				require.NoError(t, s.ours.ReleaseLock(t.Context(), released.ID))
				require.NoError(t, s.ours.TransferLock(t.Context(), moved.ID, "user:eve"))
				for range 10 {
					churn(t, s)
				}
				advance(9 * time.Minute)
				churn(t, s)

				s.close(t)
				s = open(t, path, config)
				again, err := s.ours.AcquireLock(t.Context(), held)
				require.NoError(t, err)
				require.Equal(t, lock.ID, again.ID)
				require.NoError(t, s.ours.ReleaseLock(t.Context(), released.ID))
				_, err = s.ours.AcquireLock(t.Context(), ended)
				require.ErrorIs(t, err, enhanced.ErrLockExpired)
				require.ErrorIs(t, s.ours.ReleaseLock(t.Context(), moved.ID), enhanced.ErrLockNotFound)
				other := *ended
				other.Project.Path = "another"
				_, err = s.ours.AcquireLock(t.Context(), &other)
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
				violations, err := s.ours.Verify(t.Context())
				require.NoError(t, err)
				require.Empty(t, violations)

				advance(time.Minute)
				for range 10 {
					churn(t, s)
				}
				require.ErrorIs(t, s.ours.ReleaseLock(t.Context(), released.ID), enhanced.ErrLockNotFound)
				_, err = s.ours.AcquireLock(t.Context(), ended)
				require.NoError(t, err)
			})
		})
	}
}

// IDs that are UUIDs, as ours are, have a short form in the file.
func TestUUIDsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path, nil)
	held, ended := request(stockLock("org/app", 5, "held")), request(stockLock("org/app", 5, "ended"))
	held.ID, ended.ID = "01a2280e-db2b-79bb-b23f-81fb7fa3af2d", "01a2280e-db2b-79bb-b23f-81fb7fa3af2e"
	lock, err := s.ours.AcquireLock(t.Context(), held)
	require.NoError(t, err)
	released, err := s.ours.AcquireLock(t.Context(), ended)
	require.NoError(t, err)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), released.ID))
	s.close(t)

	s = open(t, path, nil)
	again, err := s.ours.AcquireLock(t.Context(), held)
	require.NoError(t, err)
	require.Equal(t, lock, again)
	_, err = s.ours.AcquireLock(t.Context(), ended)
	require.ErrorIs(t, err, enhanced.ErrLockExpired)
	page, err := s.ours.ReadLog(t.Context(), "org/app", 0, 10)
	require.NoError(t, err)
	require.Equal(t, held.ID, page.Records[0].RequestID)
	require.Equal(t, lock.Version, page.Records[0].Token)
}

func countKeys(t *testing.T, db *bbolt.DB, repository string, letter byte) (n int) {
	t.Helper()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(enhanced.RepositoryTag(repository)))
		count := func(key, value []byte) error {
			if key[0] == letter && value != nil {
				n++
			}
			return nil
		}
		if archive := bucket.Bucket([]byte("A")); archive != nil {
			require.NoError(t, archive.ForEach(count))
		}
		return bucket.ForEach(count)
	}))
	return n
}
