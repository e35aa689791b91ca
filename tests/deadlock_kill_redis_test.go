package tests

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// foundKey says that the process has found a deadlock.
const foundKey = "test:found"

func detectingConfig() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	config.EnableDeadlockDetection, config.DeadlockCheckInterval, config.ResolutionPolicy = true, 20*time.Millisecond, enhanced.PolicyOldest
	return config
}

// stuckStore never comes to end what it has found.
type stuckStore struct {
	*backends.RedisBackend
	client *redis.Client
}

func (s stuckStore) EndDeadlock(context.Context, enhanced.DeadlockEnding) (*enhanced.DeadlockReport, error) {
	if err := s.client.Set(context.Background(), foundKey, "1", 0).Err(); err != nil {
		panic(err)
	}
	select {} // until it is killed
}

// runDetect is a process of the test: it looks for deadlocks until it is killed.
func runDetect(addr string) {
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	config := detectingConfig()
	m := enhanced.NewEnhancedLockManager(stuckStore{backends.NewRedisBackend(client, config, nil), client}, config, nil)
	if err := m.Start(context.Background()); err != nil {
		panic(err)
	}
	select {}
}

// The process that looks for deadlocks is killed after it has found one. The next one,
// with a larger token, ends it, once.
func TestDetectorIsKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client, config := server.Client(), detectingConfig()
	b := backends.NewRedisBackend(client, config, nil)
	defer b.Close()
	request := func(user, path string) *enhanced.EnhancedLockRequest {
		return &enhanced.EnhancedLockRequest{
			Resource: enhanced.ProjectResource(models.NewProject("org/app", path, ""), "default"), User: models.User{Username: user},
		}
	}
	answers := map[string]chan error{"ann": make(chan error, 1), "bob": make(chan error, 1)}
	paths := map[string]string{"ann": "vpc", "bob": "db"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for user, path := range paths {
		_, err := b.AcquireLock(ctx, request(user, path))
		require.NoError(t, err)
	}
	for i, user := range []string{"ann", "bob"} {
		other := paths[[]string{"bob", "ann"}[i]]
		go func() {
			_, err := b.AcquireLock(ctx, request(user, other))
			answers[user] <- err
		}()
		backendtest.Eventually(t, "it waits", func() bool {
			status, err := b.GetQueueStatus(ctx)
			return err == nil && status.Size == i+1
		})
	}

	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, server.Addr)
	child.Env = append(os.Environ(), childMode+"=detect")
	child.Stderr = os.Stderr
	require.NoError(t, child.Start())
	backendtest.Eventually(t, "the process has found it", func() bool { return client.Exists(ctx, foundKey).Val() == 1 })
	lease := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeGlobal, Namespace: "atlantis-locks", Name: "deadlock-detector"}
	before, err := b.LookupLock(ctx, lease)
	require.NoError(t, err)
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())

	m := enhanced.NewEnhancedLockManager(b, config, nil)
	require.NoError(t, m.Start(ctx))
	require.ErrorIs(t, <-answers["ann"], enhanced.ErrDeadlock)
	after, err := b.LookupLock(ctx, lease)
	require.NoError(t, err)
	require.Greater(t, after.Version, before.Version)
	require.NoError(t, m.Stop(ctx))
	records, err := enhanced.ReadDeadlocks(ctx, b, "", time.Time{})
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Empty(t, answers["bob"], "it still waits")
	cancel()
	require.ErrorIs(t, <-answers["bob"], enhanced.ErrTimeout)
}
