package enhanced_test

import (
	"context"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

func TestCallbacksGetEventsInOrder(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	var seen recorder
	manager.AddEventCallback(seen.callback)

	lock, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{
		Resource: resource("a"), User: alice(), Priority: enhanced.PriorityHigh,
	})
	require.NoError(t, err)
	_, refusal := manager.LockWithPriority(t.Context(), project("a"), workspace, bob(), enhanced.PriorityCritical)
	require.ErrorIs(t, refusal, enhanced.ErrLockExists)
	_, err = manager.Unlock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	_, err = manager.Acquire(t.Context(), pullRequest(5, "b"))
	require.NoError(t, err)
	_, err = manager.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.NoError(t, manager.Stop(t.Context()))

	require.Equal(t, []string{"acquired", "refused", "released", "acquired", "released"}, seen.types())
	events := seen.all()
	acquired, refused, released, closed := events[0], events[1], events[2], events[4]

	require.Equal(t, lock.ID, acquired.LockID)
	require.Equal(t, resource("a"), acquired.Resource)
	require.Equal(t, "user:alice", acquired.Owner)
	require.Equal(t, enhanced.PriorityHigh, acquired.Priority)
	require.Equal(t, lock.AcquiredAt, acquired.Timestamp)
	require.NoError(t, acquired.Err)

	require.Equal(t, "user:bob", refused.Owner)
	require.Equal(t, enhanced.PriorityCritical, refused.Priority)
	require.ErrorIs(t, refused.Err, enhanced.ErrLockExists)
	require.ErrorContains(t, refused.Err, "user alice")

	require.Equal(t, lock.ID, released.LockID)
	require.Equal(t, "user:alice", released.Owner)
	require.Equal(t, enhanced.PullOwner(host, repo, 5).String(), closed.Owner)
	require.Equal(t, enhanced.SystemAtlantis, closed.Metadata["actor"])
}

func TestCallbacksSeeWhoForcedAReleaseAndWhy(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	var seen recorder
	manager.AddEventCallback(seen.callback)
	for _, release := range []enhanced.ReleaseRequest{
		{Owner: "user:alice"},
		{Force: true, Actor: "user:bob", Reason: "stuck"},
	} {
		_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
		require.NoError(t, err)
		release.Resource = resource("a")
		_, err = manager.Release(t.Context(), release)
		require.NoError(t, err)
	}
	require.NoError(t, manager.Stop(t.Context()))
	require.Equal(t, []string{"acquired", "released", "acquired", "released"}, seen.types())
	require.Empty(t, seen.all()[1].Metadata)
	require.Equal(t, map[string]string{"actor": "user:bob", "cause": enhanced.CauseForced, "reason": "stuck"}, seen.all()[3].Metadata)
}

func TestCallbacksOfTryAcquireSeeRefusals(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	var seen recorder
	manager.AddEventCallback(seen.callback)
	for _, number := range []int{5, 6} {
		_, _, err := manager.TryAcquire(t.Context(), pullRequest(number, "a"))
		require.NoError(t, err)
	}
	require.NoError(t, manager.Stop(t.Context()))
	require.Equal(t, []string{"acquired", "refused"}, seen.types())
	require.ErrorIs(t, seen.all()[1].Err, enhanced.ErrLockExists)
}

func TestCallbacksArePanicProof(t *testing.T) {
	t.Parallel()
	logger := logging.NewNoopLogger(t).WithHistory()
	manager := enhanced.NewEnhancedLockManager(newBackend(t, withEvents()), withEvents(), logger)
	var seen recorder
	manager.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) { panic("callback is broken") })
	manager.AddEventCallback(seen.callback)
	for _, path := range []string{"a", "b"} {
		_, err := manager.Lock(t.Context(), project(path), workspace, alice())
		require.NoError(t, err)
	}
	require.NoError(t, manager.Stop(t.Context()))
	require.Equal(t, []string{"acquired", "acquired"}, seen.types())
	require.Contains(t, logger.GetHistory(), "callback is broken")
}

func TestNilCallbacksAreIgnored(t *testing.T) {
	t.Parallel()
	logger := logging.NewNoopLogger(t).WithHistory()
	manager := enhanced.NewEnhancedLockManager(newBackend(t, withEvents()), withEvents(), logger)
	manager.AddEventCallback(nil)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.NoError(t, manager.Stop(t.Context()))
	require.Empty(t, logger.GetHistory())
}

func TestCallbacksGetCopies(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	var seen recorder
	manager.AddEventCallback(func(_ context.Context, event *enhanced.ManagerEvent) { event.Owner = "somebody else" })
	manager.AddEventCallback(seen.callback)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.NoError(t, manager.Stop(t.Context()))
	require.Equal(t, "user:alice", seen.all()[0].Owner)
}

func TestSlowCallbacksLoseEventsAndDelayNobody(t *testing.T) {
	t.Parallel()
	config := withEvents()
	config.EventBufferSize = 2
	manager := newManager(t, config)
	var seen recorder
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(letGo)
	manager.AddEventCallback(func(ctx context.Context, event *enhanced.ManagerEvent) {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-leave
		seen.callback(ctx, event)
	})

	_, err := manager.Lock(t.Context(), project("0"), workspace, alice())
	require.NoError(t, err)
	<-entered
	for i := range 9 { // returns while the callback stands still
		_, err = manager.Lock(t.Context(), project(itoa(i+1)), workspace, alice())
		require.NoError(t, err)
	}
	s := stats(t, manager)
	require.EqualValues(t, 10, s.SuccessfulAcquires)
	require.EqualValues(t, 7, s.DroppedEvents, "one is with the callback, two wait")
	require.Greater(t, s.EventDropRate, 0.8)
	require.Equal(t, 91, s.HealthScore)

	letGo()
	require.NoError(t, manager.Stop(t.Context()))
	require.Len(t, seen.all(), 3)
	s = stats(t, manager)
	require.EqualValues(t, 7, s.DroppedEvents)
	require.InDelta(t, 0.7, s.EventDropRate, 1e-9)
	require.Equal(t, 93, s.HealthScore)
}

func TestCallbacksFollowEnableEvents(t *testing.T) {
	t.Parallel()
	manager := newManager(t, enabled())
	var seen recorder
	manager.AddEventCallback(seen.callback)
	for i, config := range []*enhanced.EnhancedConfig{enabled(), withEvents(), enabled()} {
		require.NoError(t, manager.UpdateConfiguration(config))
		_, err := manager.Lock(t.Context(), project(itoa(i)), workspace, alice())
		require.NoError(t, err)
	}
	require.NoError(t, manager.Stop(t.Context()))
	require.Len(t, seen.all(), 1)
	require.Equal(t, resource("1"), seen.all()[0].Resource)
	require.Zero(t, stats(t, manager).DroppedEvents)
}

func TestSubscribersDoNotDependOnEnableEvents(t *testing.T) {
	t.Parallel()
	manager := newManager(t, enabled())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := manager.GetBackend().Subscribe(ctx, []string{"acquired"})
	require.NoError(t, err)
	_, err = manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.Equal(t, resource("a"), (<-events).Resource)
}

func TestStopDeliversWhatWaits(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	var seen recorder
	manager.AddEventCallback(seen.callback)
	const locks = 200
	backendtest.Together(4, func(i int) {
		for n := range locks / 4 {
			_, err := manager.Lock(t.Context(), project(itoa(i)+"/"+itoa(n)), workspace, alice())
			if err != nil {
				t.Error(err)
			}
		}
	})
	require.NoError(t, manager.Stop(t.Context()))
	require.Len(t, seen.all(), locks)
}

func TestStopGivesUpOnACallbackWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	entered, leave := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(letGo)
	told := make(chan error, 1)
	manager.AddEventCallback(func(ctx context.Context, _ *enhanced.ManagerEvent) {
		close(entered)
		<-leave
		told <- ctx.Err()
	})
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = manager.Stop(ctx)
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	letGo()
	require.ErrorIs(t, <-told, context.Canceled, "the callback can know")
	require.NoError(t, manager.Stop(t.Context()))
}

func TestAdapterCallbacks(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, withEvents())
	manager := newManagerOn(t, backend, withEvents())
	adapter := enhanced.NewLockingAdapter(manager, backend, withEvents(), nil, nil)
	var seen recorder
	adapter.AddEventCallback(seen.callback)
	_, _, err := adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	_, err = adapter.Unlock(project("a"), workspace)
	require.NoError(t, err)
	require.NoError(t, manager.Stop(t.Context()))
	require.Equal(t, []string{"acquired", "released"}, seen.types())
	require.Equal(t, enhanced.SystemAtlantis, seen.all()[1].Metadata["actor"])
}

// What the store could not do was not refused: it may even have happened.
func TestCallbacksTellAFailureFromARefusal(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, withEvents())
	manager := newManagerOn(t, backend, withEvents())
	var seen recorder
	manager.AddEventCallback(seen.callback)
	require.NoError(t, backend.Close())
	_, err := manager.Acquire(t.Context(), pullRequest(5, "a"))
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.NoError(t, manager.Stop(t.Context()))
	require.Equal(t, []string{"failed"}, seen.types())
	require.ErrorIs(t, seen.all()[0].Err, enhanced.ErrBackend)
}
