package backends_test

import (
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// longLog makes a store with 30 records of org/app, most of them in the archive. The
// request "request-first" has got the first lock, which has ended.
func longLog(t *testing.T, config *enhanced.EnhancedConfig) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "atlantis.db")
	s := open(t, path, config)
	for i := range int64(15) {
		r := request(stockLock("org/app", 5, "p"+itoa(i)))
		if i == 0 {
			r.ID = "request-first"
		}
		lock, err := s.ours.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
	}
	s.close(t)
	return path
}

func (e *editor) archive() *bbolt.Bucket { return e.app().Bucket([]byte("A")) }

// A repository in which nothing is held is one page: most of its log is elsewhere.
func TestMostOfTheLogIsInTheArchive(t *testing.T) {
	t.Parallel()
	s := open(t, longLog(t, nil), nil)
	require.NoError(t, s.db.View(func(tx *bbolt.Tx) error {
		e := &editor{t: t, tx: tx}
		require.GreaterOrEqual(t, e.archive().Stats().KeyN, 22)
		require.Equal(t, 1, e.app().Stats().LeafPageN-e.archive().Stats().LeafPageN)
		return nil
	}))
	for after := range uint64(31) {
		page, err := s.ours.ReadLog(t.Context(), "org/app", after, 100)
		require.NoError(t, err)
		require.Len(t, page.Records, 30-int(after)) //nolint:gosec // below 31
		for i, record := range page.Records {
			require.Equal(t, after+uint64(i)+1, record.Sequence) //nolint:gosec // below 31
		}
	}
}

// What the archive says of an ended lock is remembered.
func TestARestartReadsTheArchive(t *testing.T) {
	t.Parallel()
	s := open(t, longLog(t, nil), nil)
	again := request(stockLock("org/app", 5, "p0"))
	again.ID = "request-first"
	_, err := s.ours.AcquireLock(t.Context(), again)
	require.ErrorIs(t, err, enhanced.ErrLockExpired)
}

func TestTheArchiveIsTrimmed(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.LogMaxRecords = 12
	path := longLog(t, config)
	require.Empty(t, verifyFile(t, path))
	s := open(t, path, config)
	page, err := s.ours.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	require.Len(t, page.Records, 12)
	require.EqualValues(t, 18, page.Trimmed)
}

// A long log is trimmed some records at a time, never exceeds its bound, and keeps
// most of what that allows.
func TestALongLogIsTrimmedInGroups(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.LogMaxRecords = 150
	s := open(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	s.db.NoSync = true // nothing crashes here
	trims, before := 0, uint64(0)
	for range 100 {
		lock, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 5, ".")))
		require.NoError(t, err)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
		found, trimmed := sequences(t, s.ours)
		require.LessOrEqual(t, len(found), 150)
		if trimmed > before {
			require.GreaterOrEqual(t, len(found), 135)
			trims, before = trims+1, trimmed
		}
	}
	require.Positive(t, trims)
	require.Less(t, trims, 15)
	s.close(t)
}

// A damaged archive is named and repaired as the rest of the log is.
func TestArchiveCorruptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		plant       func(e *editor)
		rules, left []string
	}{
		"record unreadable": {
			plant: func(e *editor) { e.put(e.archive(), logEntry(3), "{") },
			rules: []string{enhanced.RuleLogUnreadable},
		},
		"records gone": {
			plant: func(e *editor) {
				e.remove(e.archive(), logEntry(3))
				e.remove(e.archive(), logEntry(4))
			},
			rules: []string{enhanced.RuleLogGap},
		},
		"its beginning gone": {
			plant: func(e *editor) { e.remove(e.archive(), logEntry(1)) },
			rules: []string{enhanced.RuleLogCheckpoint},
		},
		"its end gone": {
			plant: func(e *editor) {
				last, _ := e.archive().Cursor().Last()
				e.remove(e.archive(), string(last)) // a release
			},
			rules: []string{enhanced.RuleLogGap, enhanced.RuleLogLock},
		},
		"all of it gone": {
			plant: func(e *editor) { require.NoError(e.t, e.app().DeleteBucket([]byte("A"))) },
			rules: []string{enhanced.RuleLogCheckpoint},
		},
		"a recent record of before its end": {
			plant: func(e *editor) { e.put(e.app(), logEntry(3), e.get(e.archive(), logEntry(3))) },
			rules: []string{enhanced.RuleLogSequence},
		},
		"entry that is no record": {
			plant: func(e *editor) { e.put(e.archive(), "a1", "value") },
			rules: []string{enhanced.RuleUnknownEntry}, left: []string{enhanced.RuleUnknownEntry},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := longLog(t, nil)
			(&sample{path: path}).plantIn(t, path, c.plant)
			require.Equal(t, c.rules, rulesOf(verifyFile(t, path)))
			db, err := bbolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "why")
			require.NoError(t, err)
			require.NoError(t, db.Close())
			require.Len(t, repaired, len(c.rules)-len(c.left))
			if c.left == nil {
				c.left = []string{}
			}
			require.ElementsMatch(t, c.left, rulesOf(verifyFile(t, path)))
			s := open(t, path, nil)
			_, err = s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 5, "new")))
			require.NoError(t, err)
			page, err := s.ours.ReadLog(t.Context(), "org/app", 29, 100)
			require.NoError(t, err)
			require.Equal(t, enhanced.EventAcquired, page.Records[len(page.Records)-1].Type)
			require.Less(t, time.Since(page.Records[0].Time), time.Hour)
		})
	}
}
