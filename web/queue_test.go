package web_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// startQueueServer serves the API on a store with queues, until stopping is
// closed.
func startQueueServer(t *testing.T, stopping <-chan struct{}) *client.Client {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	backend, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	server := newTestServer(t, web.NewHandler(manager, web.Options{LoopbackOnly: true, Stopping: stopping}))
	c, err := client.New(server.URL)
	require.NoError(t, err)
	return c
}

func wish(user string) api.AcquireRequest {
	return api.AcquireRequest{Repository: "acme/infra", Path: ".", Workspace: "default", Owner: api.Owner{User: user}, RequestID: "of-" + user}
}

// waitFor starts a call that waits, and returns once it does.
func waitFor(ctx context.Context, t *testing.T, c *client.Client, user string, place int) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := c.Wait(ctx, wish(user))
		done <- err
	}()
	backendtest.Eventually(t, user+" waits", func() bool {
		queue, err := c.Queue(t.Context(), "")
		require.NoError(t, err)
		return len(queue.Waiters) == place
	})
	return done
}

func TestWaitForALock(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	c := startQueueServer(t, stopping)
	lock, err := c.Wait(t.Context(), wish("alice"))
	require.NoError(t, err, "a free lock needs no wait")
	gone, leave := context.WithCancel(t.Context())
	first := waitFor(gone, t, c, "bob", 1)
	second := waitFor(t.Context(), t, c, "eve", 2)
	queue, err := c.Queue(t.Context(), "acme/infra")
	require.NoError(t, err)
	require.Equal(t, []string{"user:bob", "user:eve"}, []string{queue.Waiters[0].OwnerID, queue.Waiters[1].OwnerID})
	require.Equal(t, []int{1, 2}, []int{queue.Waiters[0].Place, queue.Waiters[1].Place})
	require.Equal(t, "of-bob", queue.Waiters[0].RequestID)

	// Whose connection ends has left.
	leave()
	require.ErrorIs(t, <-first, context.Canceled)
	backendtest.Eventually(t, "bob has left", func() bool {
		queue, err := c.Queue(t.Context(), "")
		require.NoError(t, err)
		return len(queue.Waiters) == 1
	})
	_, err = c.Unlock(t.Context(), api.UnlockRequest{ID: lock.ID, Owner: &api.Owner{User: "alice"}})
	require.NoError(t, err)
	require.NoError(t, <-second)

	// Who is taken out is told by whom.
	third := waitFor(t.Context(), t, c, "kim", 1)
	answer, err := c.Cancel(t.Context(), api.CancelRequest{
		Repository: "acme/infra", Path: ".", Workspace: "default", Owner: api.Owner{User: "kim"}, Actor: "admin",
	})
	require.NoError(t, err)
	require.Equal(t, "user:kim", answer.OwnerID)
	require.ErrorContains(t, <-third, "cancelled by user admin")

	// A server that stops does not wait for those who wait.
	last := waitFor(t.Context(), t, c, "max", 1)
	close(stopping)
	err = <-last
	require.ErrorContains(t, err, "the server is stopping")
	p := (*api.Problem)(nil)
	require.ErrorAs(t, err, &p)
	require.Equal(t, http.StatusServiceUnavailable, p.Status)
}

// Without a queue nobody waits.
func TestWaitWithoutAQueue(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	body := `{"repository":"acme/infra","path":".","workspace":"default","owner":{"user":"alice"}}`
	decode[api.Lock](t, s.post(t, api.WaitPath, body), http.StatusCreated)
	problem(t, s.post(t, api.WaitPath, body), http.StatusConflict, enhanced.ErrCodeLockExists)
	queue := decode[api.QueueList](t, s.get(t, api.QueuePath), http.StatusOK)
	require.Empty(t, queue.Waiters)
}
