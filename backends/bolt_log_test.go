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

// withLog opens a store in a bubble of fake time and takes locks for n log
// records in org/app.
func withLog(t *testing.T, config *enhanced.EnhancedConfig, n int64) *opened {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "a.db"), config)
	for i := range n {
		_, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 5, "p"+itoa(i))))
		require.NoError(t, err)
	}
	return s
}

// sequences returns those of the records in org/app's log, and of its checkpoint.
func sequences(t *testing.T, b *backends.BoltBackend) (found []uint64, trimmed uint64) {
	t.Helper()
	page, err := b.ReadLog(t.Context(), "org/app", 0, 1000)
	require.NoError(t, err)
	for _, record := range page.Records {
		found = append(found, record.Sequence)
	}
	return found, page.Trimmed
}

// damageLog makes records of org/app's log unreadable.
func damageLog(t *testing.T, s *opened, sequences ...int64) {
	t.Helper()
	require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
		e := &editor{t: t, tx: tx}
		for _, sequence := range sequences {
			bucket := e.app()
			if archive := e.archive(); archive != nil && archive.Get([]byte(logEntry(sequence))) != nil {
				bucket = archive
			}
			e.get(bucket, logEntry(sequence))
			e.put(bucket, logEntry(sequence), "{")
		}
		return nil
	}))
}

func cleanUp(t *testing.T, b *backends.BoltBackend) {
	t.Helper()
	_, err := b.CleanupExpiredLocks(t.Context())
	require.NoError(t, err)
}

// Records that were removed at the end of a log have none behind them that
// would show the gap.
func TestASubscriberLearnsThatAllItMissedIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.LogMaxAge = time.Hour
		s := withLog(t, config, 20)
		advance(2 * time.Hour)
		cleanUp(t, s.ours)
		found, trimmed := sequences(t, s.ours)
		require.Empty(t, found)
		require.EqualValues(t, 20, trimmed)

		events, err := s.ours.SubscribeFrom(t.Context(), []string{enhanced.EventReleased}, enhanced.LogPosition{"org/app": 3})
		require.NoError(t, err)
		synctest.Wait()
		require.Len(t, events, 1)
		event := <-events
		require.Equal(t, enhanced.EventSkipped, event.Type)
		require.Equal(t, "org/app", event.Resource.Namespace)
		require.Equal(t, "17", event.Metadata["records"])

		// It goes on behind them, and tells nothing twice.
		lock, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 5, "new")))
		require.NoError(t, err)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), lock.ID))
		synctest.Wait()
		require.Len(t, events, 1)
		require.Equal(t, "22", (<-events).Metadata["sequence"])

		// One who has missed nothing is told nothing.
		events, err = s.ours.SubscribeFrom(t.Context(), nil, enhanced.LogPosition{"org/app": 22})
		require.NoError(t, err)
		synctest.Wait()
		require.Empty(t, events)
		s.close(t)
	})
}

// A record that can't be read has no age of its own. It must not keep those
// behind it for good, and goes with them.
func TestUnreadableRecordsDoNotStopTheTrimmingByAge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damaged []int64
		// left are the sequences after two more changes, and then after a sweep.
		step, sweep []uint64
	}{
		"one":        {[]int64{1}, []uint64{5, 6, 7, 8}, []uint64{7, 8}},
		"several":    {[]int64{1, 2, 3}, []uint64{5, 6, 7, 8}, []uint64{7, 8}},
		"all":        {[]int64{1, 2, 3, 4, 5, 6}, []uint64{1, 2, 3, 4, 5, 6, 7, 8}, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		"in between": {[]int64{3, 4}, []uint64{5, 6, 7, 8}, []uint64{7, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := enhanced.DefaultConfig()
				config.LogMaxAge = time.Hour
				s := withLog(t, config, 6)
				damageLog(t, s, c.damaged...)
				advance(2 * time.Hour)
				for i := range int64(2) {
					_, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 5, "later"+itoa(i))))
					require.NoError(t, err)
				}
				found, trimmed := sequences(t, s.ours)
				require.Equal(t, c.step, found)
				require.Equal(t, c.step[0]-1, trimmed)
				cleanUp(t, s.ours)
				found, trimmed = sequences(t, s.ours)
				require.Equal(t, c.sweep, found)
				require.Equal(t, c.sweep[0]-1, trimmed)
				s.close(t)
			})
		})
	}
}

// Where nothing happens any more, a sweep brings the log within its bounds, and
// one that is within them is left alone.
func TestASweepTrimsBySize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := enhanced.DefaultConfig()
		s := withLog(t, config, 20)
		damageLog(t, s, 1, 16)
		config.LogMaxRecords = 5
		require.NoError(t, s.ours.UpdateConfiguration(config))
		cleanUp(t, s.ours)
		found, trimmed := sequences(t, s.ours)
		require.Equal(t, []uint64{16, 17, 18, 19, 20}, found)
		require.EqualValues(t, 15, trimmed)

		before := s.db.Stats().TxStats
		cleanUp(t, s.ours)
		after := s.db.Stats().TxStats
		require.Equal(t, before.GetWrite(), after.GetWrite())
		s.close(t)
	})
}
