package web_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestDeadlocks(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.DeadlockPrevention = true, true
	backend, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	server := newTestServer(t, web.NewHandler(enhanced.NewEnhancedLockManager(backend, config, nil), web.Options{LoopbackOnly: true}))
	c, err := client.New(server.URL)
	require.NoError(t, err)
	of := func(user, path string) api.AcquireRequest {
		r := wish(user)
		r.Path, r.RequestID = path, user+" "+path
		return r
	}

	list, err := c.Deadlocks(t.Context(), "", time.Time{})
	require.NoError(t, err)
	require.Equal(t, api.DeadlockList{Deadlocks: []api.LogRecord{}, Patterns: []api.DeadlockPattern{}}, list)

	for user, path := range map[string]string{"alice": "vpc", "bob": "db"} {
		_, err := c.Acquire(t.Context(), of(user, path))
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Wait(ctx, of("alice", "db"))
		done <- err
	}()
	defer func() {
		cancel()
		require.Error(t, <-done)
	}()
	backendtest.Eventually(t, "alice waits", func() bool {
		queue, err := c.Queue(t.Context(), "")
		return err == nil && len(queue.Waiters) == 1
	})
	for range 2 {
		_, err = c.Wait(t.Context(), of("bob", "vpc"))
		require.ErrorContains(t, err, "user bob waits for acme/infra (path vpc, workspace default), held by user alice")
		var problem *api.Problem
		require.ErrorAs(t, err, &problem)
		require.Equal(t, "DEADLOCK", problem.Code)
		require.Equal(t, http.StatusConflict, problem.Status)
	}

	list, err = c.Deadlocks(t.Context(), "acme/infra", time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Len(t, list.Deadlocks, 2)
	record := list.Deadlocks[0]
	require.Equal(t, "deadlock", record.Type)
	require.Equal(t, "user:bob", record.Waiter)
	require.Equal(t, "0", record.Token)
	require.Empty(t, record.LockID)
	require.Equal(t, "refused", record.Deadlock.Outcome)
	require.Len(t, record.Deadlock.Cycle, 2)
	first := record.Deadlock.Cycle[0]
	require.Equal(t, record.Time, first.Since)
	first.Since = time.Time{}
	require.Equal(t, api.DeadlockWait{
		OwnerID: "user:bob", Type: "project", Repository: "acme/infra", Path: "vpc", Workspace: "default",
		RequestID: "bob vpc", WaitsFor: "user:alice",
	}, first)
	require.Len(t, list.Patterns, 1)
	require.Equal(t, 2, list.Patterns[0].Count)
	require.Equal(t, []api.PatternResource{
		{Repository: "acme/infra", Path: "db", Workspace: "default"}, {Repository: "acme/infra", Path: "vpc", Workspace: "default"},
	}, list.Patterns[0].Resources)

	for _, repository := range []string{"acme/other", "acme/infra"} {
		list, err = c.Deadlocks(t.Context(), repository, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.Empty(t, list.Deadlocks)
	}
}
