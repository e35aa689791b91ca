package enhanced_test

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// The specification's methods wait their turn once the queue is on.
func TestManagerWaitsInTheQueue(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	manager := newManager(t, config)
	ctx := t.Context()
	position := func(ctx context.Context) int {
		n, err := manager.GetQueuePosition(ctx, project("a"), workspace)
		require.NoError(t, err)
		return n
	}
	of := func(user models.User) context.Context {
		return enhanced.ContextWithOwner(ctx, enhanced.UserOwner(user.Username))
	}
	_, err := manager.Lock(ctx, project("a"), workspace, alice())
	require.NoError(t, err)
	answers := make(map[string]chan error)
	for i, call := range []struct {
		user models.User
		lock func(user models.User) (*models.ProjectLock, error)
	}{
		{bob(), func(u models.User) (*models.ProjectLock, error) { return manager.Lock(ctx, project("a"), workspace, u) }},
		{models.User{Username: "eve"}, func(u models.User) (*models.ProjectLock, error) {
			return manager.LockWithTimeout(ctx, project("a"), workspace, u, time.Hour)
		}},
		{models.User{Username: "kim"}, func(u models.User) (*models.ProjectLock, error) {
			return manager.LockWithPriority(ctx, project("a"), workspace, u, enhanced.PriorityCritical)
		}},
	} {
		answer := make(chan error, 1)
		answers[call.user.Username] = answer
		go func() {
			lock, err := call.lock(call.user)
			if err == nil && lock.User.Username != call.user.Username {
				t.Errorf("%s got %v", call.user.Username, lock)
			}
			answer <- err
		}()
		backendtest.Eventually(t, "it waits", func() bool { return position(ctx) == i+1 })
	}
	require.Equal(t, 1, position(of(models.User{Username: "kim"})))
	require.Equal(t, 2, position(of(bob())))
	require.Equal(t, 3, position(of(models.User{Username: "eve"})))
	require.Zero(t, position(of(alice())), "the holder does not wait")

	_, err = manager.AcquireNow(ctx, &enhanced.EnhancedLockRequest{Project: project("a"), Workspace: workspace, User: models.User{Username: "max"}})
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	require.Equal(t, 3, position(ctx), "it does not wait")
	require.NoError(t, manager.CancelQueuedRequest(ctx, project("a"), workspace, bob()))
	require.ErrorIs(t, <-answers["bob"], enhanced.ErrLockExpired)
	require.ErrorIs(t, manager.CancelQueuedRequest(ctx, project("a"), workspace, bob()), enhanced.ErrLockNotFound)
	require.ErrorIs(t, manager.CancelQueuedRequest(ctx, project("a"), workspace, models.User{}), enhanced.ErrInvalidRequest)

	for _, next := range []struct{ holder, heir string }{{"alice", "kim"}, {"kim", "eve"}} {
		_, err := manager.Unlock(ctx, project("a"), workspace, models.User{Username: next.holder})
		require.NoError(t, err)
		require.NoError(t, <-answers[next.heir])
	}
	require.Zero(t, position(ctx))
}
