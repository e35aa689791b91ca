package backends_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestNewBoltBackendRefuses(t *testing.T) {
	t.Parallel()
	openFile := func(t *testing.T, options *bbolt.Options) *bbolt.DB {
		t.Helper()
		path := filepath.Join(t.TempDir(), "a.db")
		if options != nil && options.ReadOnly {
			db, err := bbolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		}
		db, err := bbolt.Open(path, 0o600, options)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return db
	}

	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		_, err := backends.NewBoltBackend(nil, nil, nil)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	})
	t.Run("an invalid configuration", func(t *testing.T) {
		t.Parallel()
		config := enhanced.DefaultConfig()
		config.DefaultTimeout = 3 * time.Hour
		_, err := backends.NewBoltBackend(openFile(t, nil), config, nil)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "default_timeout: 3h0m0s is above max_timeout: 2h0m0s")
	})
	t.Run("cluster mode", func(t *testing.T) {
		t.Parallel()
		config := enhanced.DefaultConfig()
		config.RedisClusterMode = true
		_, err := backends.NewBoltBackend(openFile(t, nil), config, nil)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "redis_cluster_mode: true")
	})
	t.Run("a read-only file", func(t *testing.T) {
		t.Parallel()
		_, err := backends.NewBoltBackend(openFile(t, &bbolt.Options{ReadOnly: true}), nil, nil)
		require.ErrorIs(t, err, enhanced.ErrBackend)
		require.ErrorContains(t, err, "a.db")
	})
	t.Run("a closed file", func(t *testing.T) {
		t.Parallel()
		db := openFile(t, nil)
		require.NoError(t, db.Close())
		_, err := backends.NewBoltBackend(db, nil, nil)
		require.ErrorIs(t, err, enhanced.ErrBackend)
	})
	t.Run("a newer format", func(t *testing.T) {
		t.Parallel()
		db := openFile(t, nil)
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			root, err := tx.CreateBucket([]byte("enhanced"))
			return errors.Join(err, root.Put([]byte("format"), []byte("99")))
		}))
		_, err := backends.NewBoltBackend(db, nil, nil)
		require.ErrorIs(t, err, enhanced.ErrBackend)
		require.ErrorContains(t, err, `format "99"`)
	})
}

func TestAStoreSurvivesRestarts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false
	for _, config := range []*enhanced.EnhancedConfig{nil, config} {
		s := open(t, path, config)
		before, err := s.ours.ListLocks(t.Context())
		require.NoError(t, err)
		r := request(stockLock("org/app", 5, "p"+time.Now().String()))
		r.Timeout, r.Metadata = time.Hour, map[string]string{"note": "n"}
		lock, err := s.ours.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		s.close(t)

		s = open(t, path, nil)
		after, err := s.ours.ListLocks(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, append(before, lock), after)
		found, err := s.ours.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
		require.Equal(t, lock, found)
		s.close(t)
	}
}

func TestOpeningAHealthyStoreChangesNothing(t *testing.T) {
	t.Parallel()
	path := fill(t, stockLock("org/app", 5, "."))
	open(t, path, nil).close(t)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	open(t, path, nil).close(t)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))
}

func TestAClosedBackend(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	events, err := b.Subscribe(t.Context(), nil)
	require.NoError(t, err)
	lock, err := b.AcquireLock(t.Context(), request(stockLock("org/app", 5, ".")))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	for open := true; open; {
		_, open = <-events
	}

	_, err = b.AcquireLock(t.Context(), request(stockLock("org/app", 6, "a")))
	require.ErrorIs(t, err, enhanced.ErrClosed)
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorIs(t, b.ReleaseLock(t.Context(), lock.ID), enhanced.ErrClosed)
	_, err = b.ListLocks(t.Context())
	require.ErrorIs(t, err, enhanced.ErrClosed)
	_, err = b.Subscribe(t.Context(), nil)
	require.ErrorIs(t, err, enhanced.ErrClosed)
	require.ErrorIs(t, b.HealthCheck(t.Context()), enhanced.ErrClosed)
	stats, err := b.GetStats(t.Context())
	require.ErrorIs(t, err, enhanced.ErrClosed)
	require.Less(t, stats.HealthScore, 20)
	require.EqualValues(t, 1, stats.SuccessfulAcquires, "this process's figures are right all the same")
	require.NoError(t, db.Close(), "the caller's file is the caller's")
}

// The rest runs in bubbles of fake time, in which bbolt works as long as
// nothing sleeps inside a transaction.

// advance moves the bubble's clock.
func advance(d time.Duration) { <-time.After(d) }

func TestLeaseEndsExactlyAtItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, filepath.Join(t.TempDir(), "a.db"), nil)
		r := request(stockLock("org/app", 5, "."))
		r.Timeout = time.Hour
		lock, err := b.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		advance(time.Hour - time.Microsecond)
		_, err = b.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
		advance(time.Microsecond)
		_, err = b.GetLock(t.Context(), lock.ID)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		_, err = b.AcquireLock(t.Context(), request(stockLock("org/app", 6, ".")))
		require.NoError(t, err)
	})
}

func TestTheStoresClockNeverRunsBackwards(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	var future time.Time
	var last *enhanced.EnhancedLock
	// A bubble starts in the year 2000: its second half is a wall clock that
	// was set back.
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, path, nil)
		advance(48 * time.Hour)
		r := request(stockLock("org/app", 5, "."))
		r.Timeout = time.Hour
		var err error
		last, err = b.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		future = time.Now()
	})
	synctest.Test(t, func(t *testing.T) {
		require.True(t, time.Now().Before(future))
		b := openBolt(t, path, nil)
		next, err := b.AcquireLock(t.Context(), request(stockLock("org/app", 5, "other")))
		require.NoError(t, err)
		require.Greater(t, next.Version, last.Version)
		require.False(t, next.AcquiredAt.Before(last.AcquiredAt))
		held, err := b.GetLock(t.Context(), last.ID)
		require.NoError(t, err, "a lease is not shortened")
		require.Equal(t, last.ExpiresAt, held.ExpiresAt)
		wait, found, err := b.NextDeadline(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, time.Hour, wait)
	})
}
