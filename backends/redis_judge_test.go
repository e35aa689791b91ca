package backends_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// meddling is a client that calls do once, after a script has found a cycle.
func meddling(t *testing.T, server *redistest.Server, do func(ctx context.Context) error) *redis.Client {
	t.Helper()
	client := server.Client()
	var once sync.Once
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		err := next(ctx, cmd)
		if command, ok := cmd.(interface{ Val() any }); ok {
			if parts, isList := command.Val().([]any); isList && len(parts) > 0 && parts[0] == "cycle" {
				once.Do(func() {
					if problem := do(ctx); problem != nil {
						t.Error(problem)
					}
				})
			}
		}
		return err
	}))
	return client
}

// The step that acts looks at the whole cycle itself: one that is gone when it is
// judged refuses nobody, and one that is another one then is judged anew.
func TestRedisCycleThatChangesWhileItIsJudged(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b := openRedis(t, server.Client(), preventingOn())
	var vpc *enhanced.EnhancedLock
	for _, held := range [][2]string{{"db", "bob"}, {"dns", "bob"}, {"vpc", "ann"}} {
		var err error
		vpc, err = b.AcquireLock(t.Context(), by("org/app", held[0], held[1]))
		require.NoError(t, err)
	}
	ann := waits(t, b, by("org/app", "db", "ann"))
	kim := waits(t, b, by("org/app", "dns", "kim"))
	asks := openRedis(t, meddling(t, server, func(ctx context.Context) error { return b.TransferLock(ctx, vpc.ID, "user:kim") }), preventingOn())
	_, err := asks.AcquireLock(t.Context(), by("org/app", "vpc", "bob"))
	require.ErrorIs(t, err, enhanced.ErrDeadlock)
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/app", time.Time{})
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, "user:kim", records[0].Deadlock.Cycle[0].For)

	asks = openRedis(t, meddling(t, server, func(ctx context.Context) error {
		return b.CancelRequest(ctx, by("org/app", "dns", "").Resource, "user:kim", "user:admin")
	}), preventingOn())
	bob := make(chan error, 1)
	go func() {
		_, err := asks.AcquireLock(context.WithoutCancel(t.Context()), by("org/app", "vpc", "bob"))
		bob <- err
	}()
	select {
	case err := <-bob:
		t.Fatalf("the request is refused: %v", err)
	case err := <-kim:
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
	}
	backendtest.Eventually(t, "bob waits", func() bool { return len(bob) == 1 || waiting(t, b) == 2 })
	require.Empty(t, bob)
	require.Empty(t, ann)
}
