package tests

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
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

// redisVariable names the environment variable with host:port of a server on
// which the integration test runs, instead of one of its own.
const redisVariable = "ATLANTIS_LOCKS_TEST_REDIS"

// TestRedisBackendIntegration is the life of a lock as Atlantis sees it, on two
// replicas. On a given server it uses repositories of its own, which it removes.
func TestRedisBackendIntegration(t *testing.T) {
	t.Parallel()
	client := givenRedis(t)
	repository := "integration/" + rand.Text()
	config := enhanced.DefaultConfig()
	config.Enabled, config.EnableEvents = true, true
	replica := func() (*enhanced.LockingAdapter, *enhanced.EnhancedLockManager) {
		b := backends.NewRedisBackend(client, config, nil)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		manager := enhanced.NewEnhancedLockManager(b, config, nil)
		return enhanced.NewLockingAdapter(manager, b, config, nil, nil), manager
	}
	one, manager := replica()
	two, other := replica()
	t.Cleanup(func() { removeRepository(t, client, repository) })
	require.NoError(t, one.HealthCheck(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.NoError(t, other.Start(ctx))
	defer func() { require.NoError(t, other.Stop(context.WithoutCancel(ctx))) }()
	events, err := other.GetBackend().Subscribe(ctx, nil)
	require.NoError(t, err)
	next := func() *enhanced.LockEvent {
		for {
			select {
			case event := <-events:
				if event.Resource.Namespace == repository {
					return event
				}
			case <-time.After(30 * time.Second):
				t.Fatal("no event came")
			}
		}
	}

	lock := func(number int, path string) models.ProjectLock {
		return models.ProjectLock{
			Project: models.NewProject(repository, path, ""), Workspace: "default",
			User: models.User{Username: "ann"}, Time: time.Now(),
			Pull: models.PullRequest{Num: number, BaseRepo: models.Repo{
				FullName: repository, VCSHost: models.VCSHost{Hostname: "github.com", Type: models.Github},
			}},
		}
	}
	acquired, _, err := one.TryLock(lock(5, "."))
	require.NoError(t, err)
	require.True(t, acquired)
	require.Equal(t, enhanced.EventAcquired, next().Type)
	acquired, holder, err := two.TryLock(lock(6, "."))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, 5, holder.Pull.Num)

	_, err = two.LockWithTimeout(ctx, lock(6, "a").Project, "default", models.User{Username: "bob"}, 50*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, enhanced.EventAcquired, next().Type)
	require.Equal(t, enhanced.EventTimeout, next().Type, "the manager of the other replica ends the lease")

	acquired, _, err = two.TryLock(lock(5, "b"))
	require.NoError(t, err)
	require.True(t, acquired)
	require.Equal(t, enhanced.EventAcquired, next().Type)
	released, err := two.UnlockByPull(repository, 5)
	require.NoError(t, err)
	require.Len(t, released, 2)
	require.Equal(t, enhanced.EventReleased, next().Type)
	require.Equal(t, enhanced.EventReleased, next().Type)
	all, err := one.List()
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(all, func(l models.ProjectLock) bool { return l.Project.RepoFullName == repository }))
	stats, err := manager.GetStats(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 100, stats.HealthScore)
}

// givenRedis returns a client of the server that the environment names, or of
// one that ends with the test.
func givenRedis(t *testing.T) *redis.Client {
	t.Helper()
	addr := os.Getenv(redisVariable)
	if addr == "" {
		return redistest.Start(t, redistest.Options{}).Client()
	}
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// removeRepository removes what a test has left.
func removeRepository(t *testing.T, client *redis.Client, repository string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	prefix := enhanced.DefaultConfig().RedisKeyPrefix
	for _, suffix := range []string{"state", "deadlines", "log", "queue"} {
		key := prefix + "{" + enhanced.RepositoryTag(repository) + "}:" + suffix
		require.NoError(t, client.Del(ctx, key).Err())
	}
	// A test that fails leaves locks, which stock would see.
	mirrors := client.Scan(ctx, 0, "pr/"+repository+"/*", 1000).Iterator()
	for mirrors.Next(ctx) {
		require.NoError(t, client.Del(ctx, mirrors.Val()).Err())
	}
	require.NoError(t, mirrors.Err())
}

// What tests leave on somebody's server is the layout key and nothing else, also
// when they end while they hold locks.
func TestRemoveRepository(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := backends.NewRedisBackend(client, nil, nil)
	defer func() { require.NoError(t, b.Close()) }()
	for _, repository := range []string{"org/app", "org/app-kept"} {
		_, err := b.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Resource: enhanced.ProjectResource(models.NewProject(repository, "a/b", ""), "default"),
			User:     models.User{Username: "ann"},
		})
		require.NoError(t, err)
	}
	removeRepository(t, client, "org/app")
	mirrors, _, err := client.Scan(t.Context(), 0, "pr/*", 1000).Result()
	require.NoError(t, err)
	require.Equal(t, []string{"pr/org/app-kept/a/b/default/"}, mirrors)
	removeRepository(t, client, "org/app-kept")
	left, _, err := client.Scan(t.Context(), 0, "*", 1000).Result()
	require.NoError(t, err)
	require.Equal(t, []string{"atlantis-locks:layout"}, left)
}

// TestPerformanceUnderLoad checks that each lock has one owner at a time while
// many want few, and prints the rates. Benchmarks measure; this does not.
func TestPerformanceUnderLoad(t *testing.T) {
	t.Parallel()
	client := givenRedis(t)
	repository := "performance/" + rand.Text()
	t.Cleanup(func() { removeRepository(t, client, repository) })
	b := backends.NewRedisBackend(client, nil, nil)
	defer func() { require.NoError(t, b.Close()) }()
	const (
		callers = 32
		paths   = 8
	)
	calls := backendtest.Rounds(20_000) / callers
	var mu sync.Mutex
	owners, grants, refused := make(map[string]int), 0, 0
	start := time.Now()
	backendtest.Together(callers, func(i int) {
		for call := range calls {
			path := "p" + strconv.Itoa((call+i)%paths)
			lock, acquired, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Resource: enhanced.ProjectResource(models.NewProject(repository, path, ""), "default"),
				User:     models.User{Username: fmt.Sprint("user", i)},
			})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			if !acquired {
				refused++
				mu.Unlock()
				continue
			}
			if owners[path]++; owners[path] != 1 {
				t.Errorf("%s has %d owners", path, owners[path])
			}
			grants++
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
			owners[path]--
			mu.Unlock()
			if err := b.ReleaseLock(t.Context(), lock.ID); err != nil {
				t.Error(err)
			}
		}
	})
	took := time.Since(start)
	t.Logf("%d callers in %v: %d grants and releases, %d refusals, %.0f operations a second",
		callers, took.Round(time.Millisecond), grants, refused, float64(2*grants+refused)/took.Seconds())
	require.GreaterOrEqual(t, refused, leastContended, "refusals; the run is void")
	page, err := b.ReadLog(t.Context(), repository, 0, 1)
	require.NoError(t, err)
	require.NotEmpty(t, page.Records)
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(locks, func(l *enhanced.EnhancedLock) bool { return l.Resource.Namespace == repository }))
}
