package enhanced_test

import (
	"errors"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestHealthScoreTerms(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	tests := map[string]struct {
		stats enhanced.BackendStats
		err   error
		want  int
	}{
		"nothing to report":      {enhanced.BackendStats{}, nil, 100},
		"busy is not ill":        {enhanced.BackendStats{ActiveLocks: 1e6, QueueDepth: 1e6, Refused: 1e6, Expirations: 1e6}, nil, 100},
		"store down":             {enhanced.BackendStats{}, down, 10},
		"one request in ten":     {enhanced.BackendStats{RecentFailureRate: 0.1}, nil, 96},
		"every request fails":    {enhanced.BackendStats{RecentFailureRate: 1}, nil, 60},
		"an unreadable record":   {enhanced.BackendStats{UnreadableRecords: []string{"a"}}, nil, 90},
		"two unreadable records": {enhanced.BackendStats{UnreadableRecords: []string{"a", "b"}}, nil, 90},
		"one event in ten lost":  {enhanced.BackendStats{EventDropRate: 0.1}, nil, 99},
		"every event lost":       {enhanced.BackendStats{EventDropRate: 1}, nil, 90},
		"all but the store": {
			enhanced.BackendStats{RecentFailureRate: 1, UnreadableRecords: []string{"a"}, EventDropRate: 1}, nil, 40,
		},
		"never below zero": {
			enhanced.BackendStats{RecentFailureRate: 1, UnreadableRecords: []string{"a"}, EventDropRate: 1}, down, 0,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, enhanced.HealthScore(&test.stats, test.err))
		})
	}
}

func TestHealthScoreWithTheStoreDown(t *testing.T) {
	t.Parallel()
	db := openFile(t)
	backend := newBackendOn(t, db, withEvents())
	manager := newManagerOn(t, backend, withEvents())
	adapter := enhanced.NewLockingAdapter(manager, backend, withEvents(), nil, nil)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	stats, err := manager.GetStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 100, stats.HealthScore)
	require.NoError(t, adapter.HealthCheck(t.Context()))
	require.NoError(t, adapter.Ping())

	require.NoError(t, db.Close())

	stats, err = manager.GetStats(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.NotNil(t, stats)
	require.Less(t, stats.HealthScore, 20)
	require.EqualValues(t, 1, stats.SuccessfulAcquires, "what this process has counted is still there")
	require.Zero(t, stats.ActiveLocks)
	require.ErrorIs(t, manager.GetHealth(t.Context()), enhanced.ErrBackend)
	require.ErrorIs(t, adapter.HealthCheck(t.Context()), enhanced.ErrBackend)
	require.ErrorIs(t, adapter.Ping(), enhanced.ErrBackend)

	// Nothing is granted, and each attempt lowers the score further.
	_, err = manager.Lock(t.Context(), project("b"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	after, err := manager.GetStats(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.InDelta(t, 0.5, after.RecentFailureRate, 0)
	require.Zero(t, after.HealthScore)
	require.EqualValues(t, 1, after.StoreFailures)
}

func TestHealthScoreWithAnUnreadableRecord(t *testing.T) {
	t.Parallel()
	db := openFile(t)
	manager := newManagerOn(t, newBackendOn(t, db, nil), nil)
	_, err := manager.Lock(t.Context(), project("good"), workspace, alice())
	require.NoError(t, err)

	// Stock Atlantis' bucket, where a full disk once left half a record.
	key := models.GenerateLockKey(project("bad"), workspace)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("runLocks")).Put([]byte(key), []byte(`{"Project":`))
	}))

	stats, err := manager.GetStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 90, stats.HealthScore)
	require.Len(t, stats.UnreadableRecords, 1)
	require.Contains(t, stats.UnreadableRecords[0], key)
	require.Equal(t, 1, stats.ActiveLocks)
	_, err = manager.Lock(t.Context(), project("bad"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrCorruptRecord, "it counts as held")
}
