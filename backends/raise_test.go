package backends_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// raiser is what both stores have.
type raiser interface {
	enhanced.Backend
	enhanced.Verifier
	RaiseToken(ctx context.Context, repository string, floor int64) error
}

// Tokens go on above what another store has given, and never go back.
func TestRaiseToken(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]raiser{
		"bbolt": openBolt(t, filepath.Join(t.TempDir(), "a.db"), nil),
		"Redis": openRedis(t, redistest.Start(t, redistest.Options{}).Client(), nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			take := func(path string) int64 {
				lock, acquired, err := b.TryAcquireLock(ctx, &enhanced.EnhancedLockRequest{
					Resource: enhanced.ResourceIdentifier{Namespace: "org/app", Path: path, Workspace: "default"},
					User:     models.User{Username: "ann"}, Timeout: enhanced.NoTimeout,
				})
				require.NoError(t, err)
				require.True(t, acquired)
				return lock.Version
			}
			ahead := time.Now().Add(time.Hour).UnixMicro()
			require.NoError(t, b.RaiseToken(ctx, "org/app", ahead), "before the first use of the repository")
			require.NoError(t, b.RaiseToken(ctx, "org/app", ahead))
			require.Equal(t, ahead+1, take("a"))
			require.NoError(t, b.RaiseToken(ctx, "org/app", ahead-5))
			require.Equal(t, ahead+2, take("b"), "a smaller floor changes nothing")
			require.NoError(t, b.RaiseToken(ctx, "org/app", ahead+10))
			require.Equal(t, ahead+11, take("c"))
			violations, err := b.Verify(ctx)
			require.NoError(t, err)
			require.Empty(t, violations)
			for _, floor := range []int64{-1, 1<<52 + 1} {
				require.ErrorIs(t, b.RaiseToken(ctx, "org/app", floor), enhanced.ErrInvalidRequest)
			}
			require.ErrorIs(t, b.RaiseToken(ctx, "org/\x00", 1), enhanced.ErrInvalidRequest)
			require.Equal(t, ahead+12, take("d"))
		})
	}
}
