package backends_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// closing is a pull request that is closed by a process which is cut off.
type closing struct {
	*planner
	client *redis.Client
	clock  *redistest.Clock
}

// newClosing has pull request 5 take locks after all of its were released, and wait
// for one of another.
func newClosing(t *testing.T, locks int) *closing {
	t.Helper()
	clock := redistest.NewClock(t)
	server := redistest.Start(t, redistest.Options{Env: clock.Env()})
	c := &closing{newPlanner(openRedis(t, server.Client(), planConfig())), server.Client(), clock}
	require.True(t, c.try(t, 5, "one"))
	require.True(t, c.try(t, 8, "other"))
	_, err := c.UnlockByPull("org/app", 5)
	require.NoError(t, err)
	for i := range locks {
		require.True(t, c.try(t, 5, fmt.Sprint("late", i)))
	}
	require.False(t, c.try(t, 6, "late0"))
	require.False(t, c.try(t, 5, "other"))
	return c
}

// cutOff closes the pull request in a process that loses its connection in the step
// with a number, from 0, before or after the server has done it.
func (c *closing) cutOff(t *testing.T, step int, done bool) {
	t.Helper()
	steps := 0
	c.client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !slices.Contains(cmd.Args(), any(ownerOf(5))) {
			return next(ctx, cmd)
		}
		if steps++; steps <= step {
			return next(ctx, cmd)
		}
		if steps == step+1 && done {
			_ = next(ctx, cmd) //nolint:errcheck // nobody hears of it
		}
		cmd.SetErr(io.ErrUnexpectedEOF)
		return io.ErrUnexpectedEOF
	}))
	dying := openRedis(t, c.client, planConfig())
	require.Error(t, dying.ClosePull(t.Context(), c.owner(), ""))
	require.Equal(t, step+1, steps)
}

func (*closing) owner() enhanced.Owner {
	return enhanced.ProjectLockOwner(stockLock("org/app", 5, "."))
}

// again closes it in another process.
func (c *closing) again(t *testing.T) {
	t.Helper()
	keeper, ok := c.b.(enhanced.RunKeeper)
	require.True(t, ok)
	require.NoError(t, keeper.ClosePull(t.Context(), c.owner(), ""))
}

// left is how many locks and places the pull request has.
func (c *closing) left(t *testing.T) (left int) {
	t.Helper()
	locks, err := c.b.ListLocks(t.Context())
	require.NoError(t, err)
	for _, lock := range locks {
		if lock.Owner == ownerOf(5) {
			left++
		}
	}
	status, err := c.b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	for _, r := range status.PendingRequests {
		if r.Owner().String() == ownerOf(5) {
			left++
		}
	}
	return left
}

// requireClosed checks that it has nothing, and can take nothing.
func (c *closing) requireClosed(t *testing.T) {
	t.Helper()
	require.Zero(t, c.left(t))
	require.Equal(t, ownerOf(6), c.holder(t, "late0"))
	c.requireRefused(t)
	c.requireSound(t)
}

func (c *closing) requireRefused(t *testing.T) {
	t.Helper()
	_, _, err := c.TryLock(stockLock("org/app", 5, "new"))
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	require.ErrorContains(t, err, "was closed while this ran", "it is the tombstone")
}

// A process that closes a pull request is cut off. Nothing was done then, or all, or
// there is more than one step has room for: then nothing new is taken, and who closes
// it again does the rest.
func TestRedisCloseIsCutOff(t *testing.T) {
	t.Parallel()
	t.Run("before its step", func(t *testing.T) {
		t.Parallel()
		c := newClosing(t, 2)
		c.cutOff(t, 0, false)
		require.Equal(t, 3, c.left(t))
		require.True(t, c.try(t, 5, "new"), "there is no tombstone yet")
		c.again(t)
		c.requireClosed(t)
	})
	t.Run("after its step", func(t *testing.T) {
		t.Parallel()
		c := newClosing(t, 2)
		c.cutOff(t, 0, true)
		c.requireClosed(t)
		c.again(t)
		c.requireClosed(t)
	})
	t.Run("between its steps", func(t *testing.T) {
		t.Parallel()
		c := newClosing(t, 150)
		c.clock.Set(50 * time.Second)
		c.cutOff(t, 1, false)
		require.Equal(t, 51, c.left(t), "a step has room for a hundred locks and places")
		c.requireRefused(t)
		c.requireSound(t)
		c.clock.Set(10 * time.Minute)
		c.again(t)
		c.requireClosed(t)
		members, err := c.client.ZRange(t.Context(), "atlantis:lock:{"+enhanced.RepositoryTag("org/app")+"}:queue", 0, -1).Result()
		require.NoError(t, err)
		require.Contains(t, strings.Join(members, "\n"), "\nt"+ownerOf(5)+"\n", "its tombstone")
		require.NotContains(t, strings.Join(members, "\n"), "+ ", "there is no more to release")
	})
	t.Run("and then another run takes locks", func(t *testing.T) {
		t.Parallel()
		c := newClosing(t, 150)
		c.cutOff(t, 1, false)
		c.clock.Set(2 * time.Minute)
		next := stockLock("org/app", 5, "next")
		next.Pull.HeadCommit = "0123456789"
		acquired, _, err := c.TryLock(next)
		require.NoError(t, err)
		require.True(t, acquired)
		c.clock.Set(10 * time.Minute)
		c.again(t)
		require.Equal(t, 52, c.left(t), "they are a run's")
	})
}

// Closing what has the number of another host's pull request, too, leaves the
// tombstone, and takes from neither.
func TestRedisCloseOneOfTwoHosts(t *testing.T) {
	t.Parallel()
	c := newClosing(t, 1)
	other := stockLock("org/app", 5, "theirs")
	other.Pull.BaseRepo.VCSHost.Hostname = "gitlab.com"
	acquired, _, err := c.TryLock(other)
	require.NoError(t, err)
	require.True(t, acquired)
	keeper, ok := c.b.(enhanced.RunKeeper)
	require.True(t, ok)
	require.ErrorIs(t, keeper.ClosePull(t.Context(), c.owner(), ""), enhanced.ErrInvalidRequest)
	require.Equal(t, 2, c.left(t))
	c.requireRefused(t)
	c.clock.Set(2 * time.Minute) // what it has is no longer taken for that of a run that goes on
	c.again(t)
	require.Equal(t, 2, c.left(t))
	require.NotEmpty(t, c.holder(t, "theirs"))
	c.requireSound(t)
}
