package enhanced_test

import (
	"context"
	"errors"
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

// Who is in the way of others is moved or taken out by those who may, and
// callbacks are told as subscribers are.
func TestManagerChangesAQueue(t *testing.T) {
	t.Parallel()
	config := enabled()
	config.EnablePriorityQueue, config.EnableEvents = true, true
	var asked asked
	manager := newManagerOn(t, newBackend(t, config), config, enhanced.WithAuthorizer(asked.authorize))
	told := make(chan string, 100)
	manager.AddEventCallback(func(_ context.Context, e *enhanced.ManagerEvent) { told <- e.Type + " " + e.Owner })
	require.NoError(t, manager.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, manager.Stop(context.WithoutCancel(t.Context()))) })
	hears := func(want ...string) {
		t.Helper()
		// What this manager's calls tell and what the store tells have no order
		// between them.
		var heard []string
		for range want {
			heard = append(heard, <-told)
		}
		require.ElementsMatch(t, want, heard)
	}
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	hears("acquired user:alice")
	answers := make(chan error, 2)
	for i, name := range []string{"bob", "eve"} {
		go func() {
			_, err := manager.Lock(t.Context(), project("a"), workspace, models.User{Username: name})
			answers <- err
		}()
		backendtest.Eventually(t, "it waits", func() bool {
			n, err := manager.GetQueuePosition(t.Context(), project("a"), workspace)
			require.NoError(t, err)
			return n == i+1
		})
		hears("queued user:" + name)
	}
	asked.mu.Lock()
	asked.requests = nil
	asked.mu.Unlock()

	require.NoError(t, manager.MoveRequest(t.Context(), resource("./a"), "user:eve", "user:kim", "hotfix"))
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "move_request", Resource: resource("a"), Actor: "user:kim", Owner: "user:eve", Reason: "hotfix",
	}, asked.take(t))
	hears("moved user:eve")
	place, err := manager.GetQueuePositionOf(t.Context(), project("a"), workspace, enhanced.UserOwner("eve"))
	require.NoError(t, err)
	require.Equal(t, 1, place)
	require.NoError(t, manager.CancelRequest(t.Context(), resource("a"), "user:bob", "user:kim"))
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "cancel_request", Resource: resource("a"), Actor: "user:kim", Owner: "user:bob",
	}, asked.take(t))
	require.ErrorIs(t, <-answers, enhanced.ErrLockExpired)
	hears("cancelled user:bob", "refused user:bob")

	asked.deny(errors.New("not in the team"))
	for name, call := range map[string]func() error{
		"move": func() error {
			return manager.MoveRequest(t.Context(), resource("a"), "user:eve", "user:kim", "hotfix")
		},
		"cancel": func() error { return manager.CancelRequest(t.Context(), resource("a"), "user:eve", "user:kim") },
		"cancel own": func() error {
			return manager.CancelQueuedRequest(t.Context(), project("a"), workspace, models.User{Username: "eve"})
		},
	} {
		require.ErrorIs(t, call(), enhanced.ErrPermissionDenied, name)
	}
	asked.deny(nil)
	for name, call := range map[string]func() error{
		"no reason": func() error { return manager.MoveRequest(t.Context(), resource("a"), "user:eve", "user:kim", " ") },
		"no actor":  func() error { return manager.MoveRequest(t.Context(), resource("a"), "user:eve", "", "hotfix") },
		"no owner":  func() error { return manager.CancelRequest(t.Context(), resource("a"), "eve", "user:kim") },
		"a reason of two lines": func() error {
			return manager.MoveRequest(t.Context(), resource("a"), "user:eve", "user:kim", "hot\nfix")
		},
	} {
		require.ErrorIs(t, call(), enhanced.ErrInvalidRequest, name)
	}
	_, err = manager.Unlock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.NoError(t, <-answers)
	hears("released user:alice", "granted user:eve")
}
