package backends_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A call that gives up marks its request as ended, but not one with the same ID that
// waits for something else.
func TestRedisRequestWaitsWhileAnotherWithItsIDGivesUp(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(ctx context.Context, b *backends.RedisBackend) error{
		"alone": func(ctx context.Context, b *backends.RedisBackend) error {
			r := by("org/app", "b", "bob")
			r.ID, r.Metadata = "once", map[string]string{"what is": "not common"}
			_, err := b.AcquireLock(ctx, r)
			return err
		},
		"in a set": func(ctx context.Context, b *backends.RedisBackend) error {
			set := requestsOf("b", "c")
			set[0].ID = "once"
			_, err := b.AcquireAll(ctx, set, true)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			client, held, left, letGo := server.Client(), make(chan struct{}), make(chan struct{}), make(chan struct{})
			var asked, gaveUp sync.Once
			client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
				if !strings.HasPrefix(cmd.Name(), "eval") || !slices.Contains(cmd.Args(), any("once")) {
					return next(ctx, cmd)
				}
				isFirst := false
				asked.Do(func() { isFirst = true })
				if isFirst {
					close(held)
					<-letGo
					return next(ctx, cmd)
				}
				err := next(ctx, cmd)
				if err == nil {
					gaveUp.Do(func() { close(left) })
				}
				return err
			}))
			b, other := openRedis(t, client, queueOn()), openRedis(t, server.Client(), queueOn())
			require.NoError(t, b.HealthCheck(t.Context()))
			lock, err := other.AcquireLock(t.Context(), by("org/app", "a", "ann"))
			require.NoError(t, err)
			r := by("org/app", "a", "kim")
			r.ID = "once"
			answers := waits(t, other, r)
			ctx, cancel := context.WithCancel(t.Context())
			answer := make(chan error, 1)
			go func() { answer <- ask(ctx, b) }()
			<-held
			cancel()
			require.ErrorIs(t, <-answer, enhanced.ErrOutcomeUnknown)
			<-left
			close(letGo)
			require.Equal(t, 1, waiting(t, other))
			requireSound(t, other)
			require.NoError(t, other.ReleaseLock(t.Context(), lock.ID))
			require.NoError(t, <-answers)
			requireSound(t, other)
		})
	}
}
