package enhanced_test

import (
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func stats(t *testing.T, manager *enhanced.EnhancedLockManager) enhanced.BackendStats {
	t.Helper()
	s, err := manager.GetStats(t.Context())
	require.NoError(t, err)
	return *s
}

func TestStatsCount(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	require.Equal(t, enhanced.BackendStats{HealthScore: 100}, stats(t, manager))

	for _, path := range []string{"a", "b", "c"} {
		_, err := manager.Lock(t.Context(), project(path), workspace, alice())
		require.NoError(t, err)
	}
	_, err := manager.Lock(t.Context(), project("a"), workspace, bob())
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	_, err = manager.Lock(t.Context(), project("../out"), workspace, bob())
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest, "never reaches the store and counts nowhere")
	_, err = manager.Unlock(t.Context(), project("a"), workspace, bob())
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	_, err = manager.Unlock(t.Context(), project("b"), workspace, alice())
	require.NoError(t, err)

	s := stats(t, manager)
	require.Equal(t, 2, s.ActiveLocks)
	require.Zero(t, s.QueueDepth)
	require.EqualValues(t, 4, s.TotalRequests)
	require.EqualValues(t, 3, s.SuccessfulAcquires)
	require.EqualValues(t, 1, s.Refused)
	require.Zero(t, s.StoreFailures)
	require.EqualValues(t, 1, s.Releases)
	require.Zero(t, s.Expirations)
	require.Positive(t, s.AverageWaitTime)
	require.Positive(t, s.AverageHoldTime)
	require.Equal(t, 100, s.HealthScore, "refusals are no fault of the store")
}

func TestStatsOfActiveLocksAreTheStores(t *testing.T) {
	t.Parallel()
	db := openFile(t)
	first := newBackendOn(t, db, nil)
	_, err := newManagerOn(t, first, nil).Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.NoError(t, first.Close())

	s := stats(t, newManagerOn(t, newBackendOn(t, db, nil), nil))
	require.Equal(t, 1, s.ActiveLocks)
	require.Zero(t, s.TotalRequests, "counted since the backend was made")
}

func TestStatsOfTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, nil)
		for _, lease := range []time.Duration{10 * time.Second, time.Hour} {
			_, err := manager.LockWithTimeout(t.Context(), project(lease.String()), workspace, alice(), lease)
			require.NoError(t, err)
		}
		pass(10 * time.Second)
		require.Equal(t, 1, stats(t, manager).ActiveLocks, "a lease that has ended is no active lock, settled or not")
		require.Zero(t, stats(t, manager).AverageHoldTime)
		ended, err := manager.GetBackend().CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, ended)
		require.Equal(t, 10*time.Second, stats(t, manager).AverageHoldTime)

		pass(20 * time.Second)
		_, err = manager.Unlock(t.Context(), project("1h0m0s"), workspace, alice())
		require.NoError(t, err)
		s := stats(t, manager)
		require.EqualValues(t, 1, s.Expirations)
		require.EqualValues(t, 1, s.Releases)
		require.Zero(t, s.ActiveLocks)
		require.Equal(t, 20*time.Second, s.AverageHoldTime)
		require.Zero(t, s.AverageWaitTime, "no time goes by in here")
	})
}

func TestStatsOfWaits(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	manager := newManagerOn(t, newBackendOn(t, file, nil), nil)
	busy, err := file.Begin(true) // bbolt has one writer
	require.NoError(t, err)
	begun, locked := make(chan struct{}), make(chan error, 1)
	go func() {
		close(begun)
		_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
		locked <- err
	}()
	<-begun
	const wait = 200 * time.Millisecond
	select {
	case err := <-locked:
		t.Fatalf("the file is busy, and Lock returned %v", err)
	case <-time.After(wait):
	}
	require.NoError(t, busy.Rollback())
	require.NoError(t, <-locked)
	// A busy machine may call Lock somewhat later.
	require.GreaterOrEqual(t, stats(t, manager).AverageWaitTime, wait/8)
}

func TestStatsAfterTheCallsContextEnded(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	s, err := manager.GetStats(ended(t))
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	require.NotNil(t, s)
}
