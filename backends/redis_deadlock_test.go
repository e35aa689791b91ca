package backends_test

import (
	"context"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// A backend that can't end deadlocks in a step of its own reports each once.
func TestRedisDeadlocksAreReported(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.EnableEvents = true, true
	config.EnableDeadlockDetection, config.DeadlockCheckInterval = true, 20*time.Millisecond
	b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), config)
	request := func(user, path string) *enhanced.EnhancedLockRequest {
		return &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", path, ""), Workspace: "default", User: models.User{Username: user}, Timeout: enhanced.NoTimeout,
		}
	}
	var waiting sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer waiting.Wait()
	defer cancel()
	paths := map[string]string{"alice": "vpc", "bob": "db"}
	for user, path := range paths {
		_, err := b.AcquireLock(t.Context(), request(user, path))
		require.NoError(t, err)
	}
	ended := make(chan error, 2)
	for user, other := range map[string]string{"alice": "bob", "bob": "alice"} {
		waiting.Go(func() {
			_, err := b.AcquireLock(ctx, request(user, paths[other]))
			ended <- err
		})
	}
	backendtest.Eventually(t, "both wait", func() bool {
		status, err := b.GetQueueStatus(t.Context())
		return err == nil && status.Size == 2
	})

	reports := make(chan *enhanced.ManagerEvent, 100)
	m := enhanced.NewEnhancedLockManager(struct{ enhanced.Backend }{b}, config, nil)
	m.AddEventCallback(func(_ context.Context, event *enhanced.ManagerEvent) {
		if event.Type == enhanced.EventDeadlock {
			reports <- event
		}
	})
	require.NoError(t, m.Start(t.Context()))
	report := <-reports
	require.Equal(t, enhanced.DeadlockFound, report.Metadata["outcome"])
	require.Contains(t, report.Metadata["cycle"], "user alice waits for org/app (path db, workspace default), held by user bob")
	require.Contains(t, report.Metadata["cycle"], "user bob waits for org/app (path vpc, workspace default), held by user alice")

	// The detector's lease is refreshed after half of it, so it has looked again.
	lease := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeGlobal, Namespace: "atlantis-locks", Name: "deadlock-detector"}
	first, err := b.LookupLock(t.Context(), lease)
	require.NoError(t, err)
	backendtest.Eventually(t, "it has looked again", func() bool {
		lock, err := b.LookupLock(t.Context(), lease)
		return err == nil && lock.ID == first.ID && lock.ExpiresAt.After(*first.ExpiresAt)
	})
	require.NoError(t, m.Stop(t.Context()))
	require.Empty(t, reports, "it is reported once")
	require.Empty(t, ended, "nobody is taken out")
}
