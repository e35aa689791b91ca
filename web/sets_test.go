package web_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func wishAll(owner api.Owner, paths ...string) api.AcquireAllRequest {
	request := api.AcquireAllRequest{Repository: "acme/infra", Owner: owner}
	for _, path := range paths {
		request.Projects = append(request.Projects, api.SetProject{Path: path, Workspace: "default"})
	}
	return request
}

func TestLockAll(t *testing.T) {
	t.Parallel()
	c := startQueueServer(t, nil)
	request := wishAll(api.Owner{Pull: 5, Host: "github.com"}, "b", "a", "b")
	request.Note, request.Timeout, request.RequestID = "migration", "30m", "once"
	list, err := c.AcquireAll(t.Context(), request)
	require.NoError(t, err)
	require.Len(t, list.Locks, 2)
	for i, path := range []string{"b", "a"} {
		require.Equal(t, path, list.Locks[i].Path)
		require.Equal(t, "migration", list.Locks[i].Note)
		require.Equal(t, 5, list.Locks[i].Owner.Pull)
		require.NotNil(t, list.Locks[i].ExpiresAt)
	}
	again, err := c.AcquireAll(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, list, again)

	_, err = c.AcquireAll(t.Context(), wishAll(api.Owner{User: "alice"}, "c", "a", "b"))
	refusal := (*api.Problem)(nil)
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusConflict, refusal.Status)
	require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
	require.Contains(t, refusal.Detail, "2 of 3 are locked")
	require.NotNil(t, refusal.Holder)
	locks, err := c.List(t.Context(), api.Filter{})
	require.NoError(t, err)
	require.Len(t, locks.Locks, 2)

	for name, wrong := range map[string]api.AcquireAllRequest{
		"no projects": wishAll(api.Owner{User: "alice"}),
		"501": wishAll(api.Owner{User: "alice"}, func() (paths []string) {
			for i := range api.MaxSetSize + 1 {
				paths = append(paths, fmt.Sprint("p", i))
			}
			return paths
		}()...),
		"no owner": wishAll(api.Owner{}, "a"),
	} {
		_, err := c.AcquireAll(t.Context(), wrong)
		require.ErrorAs(t, err, &refusal, name)
		require.Equal(t, http.StatusUnprocessableEntity, refusal.Status, name)
	}
	require.Equal(t, enhanced.MaxSetSize, api.MaxSetSize)
}

func TestWaitForAll(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	c := startQueueServer(t, stopping)
	held, err := c.AcquireAll(t.Context(), wishAll(api.Owner{User: "alice"}, "a", "b"))
	require.NoError(t, err)
	wait := func(ctx context.Context, user string, size int) (<-chan api.LockList, <-chan error) {
		lists, errs := make(chan api.LockList, 1), make(chan error, 1)
		go func() {
			list, err := c.WaitAll(ctx, wishAll(api.Owner{User: user}, "b", "c"))
			lists <- list
			errs <- err
		}()
		backendtest.Eventually(t, user+" waits", func() bool {
			queue, err := c.Queue(t.Context(), "acme/infra")
			require.NoError(t, err)
			return len(queue.Waiters) == size
		})
		return lists, errs
	}
	lists, errs := wait(t.Context(), "bob", 2)
	gone, cancel := context.WithCancel(t.Context())
	_, left := wait(gone, "carol", 4)
	cancel()
	require.Error(t, <-left)
	backendtest.Eventually(t, "her request has left", func() bool {
		queue, err := c.Queue(t.Context(), "")
		require.NoError(t, err)
		return len(queue.Waiters) == 2
	})
	_, err = c.Unlock(t.Context(), api.UnlockRequest{ID: held.Locks[1].ID, Owner: &api.Owner{User: "alice"}})
	require.NoError(t, err)
	require.NoError(t, <-errs)
	require.Len(t, (<-lists).Locks, 2)

	_, errs = wait(t.Context(), "dave", 2)
	close(stopping)
	refusal := (*api.Problem)(nil)
	require.ErrorAs(t, <-errs, &refusal)
	require.Equal(t, http.StatusServiceUnavailable, refusal.Status)
	require.Contains(t, refusal.Detail, "stopping")
	require.Contains(t, refusal.Detail, "2 projects of acme/infra")
}

func TestReplaceLocks(t *testing.T) {
	t.Parallel()
	c := startQueueServer(t, nil)
	owner := api.Owner{Pull: 5, Host: "github.com"}
	before, err := c.AcquireAll(t.Context(), wishAll(owner, "a", "b"))
	require.NoError(t, err)
	replaced, err := c.ReplaceLocks(t.Context(), wishAll(owner, "c", "b"))
	require.NoError(t, err)
	require.Equal(t, before.Locks[1], replaced.Held[1], "what is kept is as it was")
	require.Equal(t, replaced.Held[:1], replaced.Taken)
	require.Equal(t, "c", replaced.Taken[0].Path)
	require.Len(t, replaced.Freed, 1)
	require.Equal(t, "a", replaced.Freed[0].Path)

	_, err = c.ReplaceLocks(t.Context(), wishAll(api.Owner{User: "alice"}, "a", "b"))
	refusal := (*api.Problem)(nil)
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
	locks, err := c.List(t.Context(), api.Filter{})
	require.NoError(t, err)
	require.Len(t, locks.Locks, 2)
	_, err = c.ReplaceLocks(t.Context(), wishAll(owner))
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusUnprocessableEntity, refusal.Status)
}
