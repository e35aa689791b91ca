package recorder_test

import (
	"sync"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/recorder"
	"github.com/stretchr/testify/require"
)

func TestZeroValue(t *testing.T) {
	t.Parallel()
	var r recorder.Recorder
	require.Equal(t, recorder.Snapshot{}, r.Snapshot())
}

func TestCountsAndAverages(t *testing.T) {
	t.Parallel()
	var r recorder.Recorder
	r.Acquired(2 * time.Second)
	r.Acquired(4 * time.Second)
	r.Refused()
	r.Failed()
	r.Released(time.Minute)
	r.Released(2 * time.Minute)
	r.Expired(6 * time.Minute)
	require.Equal(t, recorder.Snapshot{
		Acquired: 2, Refused: 1, Failed: 1, Released: 2, Expired: 1,
		AverageWait: 3 * time.Second, AverageHold: 3 * time.Minute,
		RecentFailureRate: 0.25,
	}, r.Snapshot())
}

func TestFailureRateLooksAtTheLatestRequests(t *testing.T) {
	t.Parallel()
	var r recorder.Recorder
	r.Failed()
	require.InDelta(t, 1, r.Snapshot().RecentFailureRate, 0, "the first failure weighs fully")
	for range 99 {
		r.Acquired(0)
	}
	require.InDelta(t, 0.01, r.Snapshot().RecentFailureRate, 0)
	r.Refused()
	require.InDelta(t, 0, r.Snapshot().RecentFailureRate, 0, "the failure is 101 requests ago")
	for range 250 {
		r.Failed()
	}
	require.InDelta(t, 1, r.Snapshot().RecentFailureRate, 0)
	for range 50 {
		r.Refused()
	}
	require.InDelta(t, 0.5, r.Snapshot().RecentFailureRate, 0)
	r.Released(0)
	r.Expired(0)
	require.InDelta(t, 0.5, r.Snapshot().RecentFailureRate, 0, "the end of a lock is no request")
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	var r recorder.Recorder
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			for range 500 {
				r.Acquired(time.Millisecond)
				r.Refused()
				r.Failed()
				r.Released(time.Millisecond)
				r.Expired(time.Millisecond)
				r.Snapshot()
			}
		})
	}
	done.Wait()
	s := r.Snapshot()
	require.Equal(t, [5]int64{4000, 4000, 4000, 4000, 4000}, [5]int64{s.Acquired, s.Refused, s.Failed, s.Released, s.Expired})
	require.Equal(t, time.Millisecond, s.AverageWait)
	require.Equal(t, time.Millisecond, s.AverageHold)
}
