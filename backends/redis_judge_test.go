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

// A cycle that is gone when it is judged refuses nobody: the step that acts looks at
// all of it itself.
func TestRedisCycleThatIsGoneWhenItIsJudged(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b := openRedis(t, server.Client(), preventingOn())
	_, err := b.AcquireLock(t.Context(), by("org/app", "vpc", "ann"))
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), by("org/app", "db", "bob"))
	require.NoError(t, err)
	ann := waits(t, b, by("org/app", "db", "ann"))

	client := server.Client()
	var once sync.Once
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		err := next(ctx, cmd)
		if command, ok := cmd.(interface{ Val() any }); ok {
			if parts, isList := command.Val().([]any); isList && len(parts) > 0 && parts[0] == "cycle" {
				once.Do(func() {
					if cancelled := b.CancelRequest(ctx, by("org/app", "db", "").Resource, "user:ann", "user:admin"); cancelled != nil {
						t.Error(cancelled)
					}
				})
			}
		}
		return err
	}))
	asks := openRedis(t, client, preventingOn())
	bob := make(chan error, 1)
	go func() {
		_, err := asks.AcquireLock(context.WithoutCancel(t.Context()), by("org/app", "vpc", "bob"))
		bob <- err
	}()
	select {
	case err := <-bob:
		t.Fatalf("the request is refused: %v", err)
	case err := <-ann:
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
	}
	backendtest.Eventually(t, "bob waits", func() bool { return len(bob) == 1 || waiting(t, b) == 1 })
	require.Empty(t, bob)
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/app", time.Time{})
	require.NoError(t, err)
	require.Empty(t, records)
}
