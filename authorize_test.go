package enhanced_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// asked keeps what an authorizer is asked, and gives one answer.
type asked struct {
	mu       sync.Mutex // protects the fields below
	requests []enhanced.AuthorizationRequest
	answer   error
}

func (a *asked) authorize(_ context.Context, request enhanced.AuthorizationRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, request)
	return a.answer
}

func (a *asked) deny(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = err
}

// take returns the one request since the last call.
func (a *asked) take(t *testing.T) enhanced.AuthorizationRequest {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	require.Len(t, a.requests, 1)
	request := a.requests[0]
	a.requests = nil
	return request
}

func TestAuthorizerIsAskedAboutEachChange(t *testing.T) {
	t.Parallel()
	var asked asked
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled(), enhanced.WithAuthorizer(asked.authorize))
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)
	pull5 := enhanced.PullOwner(host, repo, 5).String()

	_, err := manager.Lock(t.Context(), project("./a/"), workspace, alice())
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "acquire", Resource: resource("a"), Actor: "user:alice", Owner: "user:alice",
	}, asked.take(t))

	_, _, err = manager.TryAcquire(t.Context(), pullRequest(5, "b"))
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "acquire", Resource: resource("b"), Actor: pull5, Owner: pull5,
	}, asked.take(t))

	_, err = manager.Unlock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "release", Resource: resource("a"), Actor: "user:alice", Owner: "user:alice",
	}, asked.take(t))

	_, err = manager.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("b"), Force: true, Actor: "user:bob", Reason: "stuck"})
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "force_release", Resource: resource("b"), Actor: "user:bob", Reason: "stuck",
	}, asked.take(t))

	lock, err := manager.Acquire(t.Context(), pullRequest(5, "c"))
	require.NoError(t, err)
	asked.take(t)
	_, err = manager.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Owner: pull5, Actor: "user:bob"})
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "release", LockID: lock.ID, Actor: "user:bob", Owner: pull5,
	}, asked.take(t), "bob acts for the pull request")

	_, err = adapter.UnlockByPull(repo, 5)
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "release_pull", Resource: enhanced.ResourceIdentifier{Namespace: repo},
		Actor: enhanced.SystemAtlantis, Owner: enhanced.PullOwner("", repo, 5).String(),
	}, asked.take(t))

	_, err = adapter.Unlock(project("d"), workspace)
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "force_release", Resource: resource("d"), Actor: enhanced.SystemAtlantis,
	}, asked.take(t))

	_, err = manager.Repair(t.Context(), "user:bob", "after a full disk")
	require.NoError(t, err)
	require.Equal(t, enhanced.AuthorizationRequest{
		Action: "repair", Actor: "user:bob", Reason: "after a full disk",
	}, asked.take(t))

	// Reading needs no leave.
	_, err = manager.Verify(t.Context())
	require.NoError(t, err)
	_, err = manager.List(t.Context())
	require.NoError(t, err)
	_, err = manager.GetStats(t.Context())
	require.NoError(t, err)
	_, err = adapter.GetLock(project("a"), workspace)
	require.NoError(t, err)
	require.Empty(t, asked.requests)
}

func TestAuthorizerIsNotAskedAboutInvalidRequests(t *testing.T) {
	t.Parallel()
	var asked asked
	manager := newManager(t, nil, enhanced.WithAuthorizer(asked.authorize))
	_, err := manager.Lock(t.Context(), project("../out"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.Empty(t, asked.requests)
}

func TestAuthorizerDenies(t *testing.T) {
	t.Parallel()
	var asked asked
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled(), enhanced.WithAuthorizer(asked.authorize))
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)
	_, err := manager.Acquire(t.Context(), pullRequest(5, "a"))
	require.NoError(t, err)
	noTeam := errors.New("not in the team")
	asked.deny(noTeam)

	number := 5
	for name, call := range map[string]func() error{
		"Lock":       func() error { _, err := manager.Lock(t.Context(), project("b"), workspace, alice()); return err },
		"TryAcquire": func() error { _, _, err := manager.TryAcquire(t.Context(), pullRequest(6, "b")); return err },
		"Release": func() error {
			_, err := manager.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("a"), PullNumber: &number})
			return err
		},
		"ReleaseByPull":       func() error { _, err := manager.ReleaseByPull(t.Context(), repo, 5, "user:alice"); return err },
		"Repair":              func() error { _, err := manager.Repair(t.Context(), "user:alice", "because"); return err },
		"TryLock":             func() error { _, _, err := adapter.TryLock(pullLock(6, "b")); return err },
		"adapter Unlock":      func() error { _, err := adapter.Unlock(project("a"), workspace); return err },
		"UnlockIfOwnedByPull": func() error { _, err := adapter.UnlockIfOwnedByPull(project("a"), workspace, 5); return err },
		"UnlockByPull":        func() error { _, err := adapter.UnlockByPull(repo, 5); return err },
	} {
		err := call()
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied, name)
		require.ErrorIs(t, err, noTeam, name)
	}
	_, err = manager.Lock(t.Context(), project("b"), workspace, alice())
	require.EqualError(t, err, "user alice may not acquire "+resource("b").String()+": not in the team")

	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1, "nothing was taken or released")
	require.Equal(t, 5, locks[0].Pull.Num)
}

func TestAuthorizerThatPanicsDenies(t *testing.T) {
	t.Parallel()
	logger := logging.NewNoopLogger(t).WithHistory()
	manager := enhanced.NewEnhancedLockManager(newBackend(t, nil), nil, logger, enhanced.WithAuthorizer(
		func(context.Context, enhanced.AuthorizationRequest) error { panic("nil map") }))
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	require.NotContains(t, err.Error(), "nil map", "the reason is for the log")
	require.Contains(t, logger.GetHistory(), "nil map")
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
}

func TestAuthorizerThatHangsDenies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		defer close(leave)
		manager := newManager(t, nil, enhanced.WithAuthorizer(
			func(context.Context, enhanced.AuthorizationRequest) error { <-leave; return nil }))
		start := time.Now()
		_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

func TestAuthorizerIsToldWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, nil, enhanced.WithAuthorizer(
			func(ctx context.Context, _ enhanced.AuthorizationRequest) error { <-ctx.Done(); return ctx.Err() }))
		_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err = manager.Lock(ctx, project("a"), workspace, alice())
		require.Error(t, err)
		require.Equal(t, time.Second, time.Since(start), "the caller's context ends it earlier")
	})
}
