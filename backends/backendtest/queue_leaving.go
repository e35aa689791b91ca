package backendtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testLeaving is about those who can't enter a queue, or leave it without the
// lock.
func testLeaving(t *testing.T, newBackend NewBackend) {
	t.Helper()
	// As in the change log of Redisson 4.6.1: who had given up was still counted.
	t.Run("MaxQueueSize", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.MaxQueueSize = 2 }))
		acquire(t, b, userRequest("holder", "."))
		first := enqueue(t, b, userRequest("u1", "."))
		enqueue(t, b, userRequest("u2", "."))
		_, err := b.AcquireLock(t.Context(), userRequest("u3", "."))
		require.ErrorIs(t, err, enhanced.ErrQueueFull)
		require.ErrorContains(t, err, "its queue has 2 waiters, and max_queue_size is 2")
		acquire(t, b, userRequest("holder", "other"))
		enqueue(t, b, userRequest("u3", "other"))
		first.cancel()
		<-first.done
		Eventually(t, "the first one has left", func() bool { return queueLength(t, b) == 2 })
		enqueue(t, b, userRequest("u4", "."))
	})

	t.Run("QueueTimeout", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.QueueTimeout = 500 * time.Millisecond }))
		lock := acquire(t, b, userRequest("holder", "."))
		_, err := b.AcquireLock(t.Context(), userRequest("late", "."))
		require.ErrorIs(t, err, enhanced.ErrTimeout)
		require.ErrorContains(t, err, "user late waited too long for")
		require.ErrorContains(t, err, "as number 1 of 1 in the queue")
		require.ErrorContains(t, err, "is locked by user holder")
		timeout := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &timeout)
		require.Equal(t, lock.ID, timeout.Holder.ID)
		require.Zero(t, queueLength(t, b))
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		requireFree(t, b, resource("."))
	})

	t.Run("cancel", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		err := b.CancelRequest(t.Context(), resource("."), "user:next", "user:next")
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		require.ErrorContains(t, err, "user next does not wait for")
		lock := acquire(t, b, userRequest("holder", "."))
		next, after := enqueue(t, b, userRequest("next", ".")), enqueue(t, b, userRequest("after", "."))
		require.ErrorIs(t, b.CancelRequest(t.Context(), resource("other"), "user:next", "user:next"), enhanced.ErrLockNotFound)
		require.ErrorIs(t, b.CancelRequest(t.Context(), resource("."), "nobody", "user:next"), enhanced.ErrInvalidRequest)
		require.NoError(t, b.CancelRequest(t.Context(), resource("."), "user:next", "user:admin"))
		_, err = next.result(t)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		require.ErrorContains(t, err, "was cancelled by user admin")
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		after.requireGranted(t)
	})

	// The longer number is as in bsm/redislock v0.9.4, which compared a prefix.
	t.Run("closing a pull request takes it out of all queues", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		one, two := acquire(t, b, userRequest("holder", "one")), acquire(t, b, userRequest("holder", "two"))
		closed := []*waiter{enqueue(t, b, pullRequest(5, "one")), enqueue(t, b, pullRequest(5, "two"))}
		longer := enqueue(t, b, pullRequest(55, "one"))
		acquire(t, b, pullRequest(5, "three"))
		heir := enqueue(t, b, pullRequest(6, "three"))
		locks, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
		require.NoError(t, err)
		require.Len(t, locks, 1)
		for _, w := range closed {
			_, err := w.result(t)
			require.ErrorIs(t, err, enhanced.ErrLockExpired)
		}
		heir.requireGranted(t)
		require.NoError(t, b.ReleaseLock(t.Context(), one.ID))
		longer.requireGranted(t)
		require.NoError(t, b.ReleaseLock(t.Context(), two.ID))
		requireFree(t, b, resource("two"))
		requireVerified(t, b)
	})

	// As in etcd-io/etcd#10111: the call answered nil without the lock. In Redisson
	// 3.17.1 who had given up got it.
	t.Run("who gives up when the lock is freed has it, or an error", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		granted := 0
		for round := range Rounds(2_000) {
			path := fmt.Sprint("p", round)
			lock := acquire(t, b, userRequest("holder", path))
			w := enqueue(t, b, userRequest("next", path))
			Together(2, func(i int) {
				if i == 0 {
					w.cancel()
				} else {
					assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				}
			})
			got, err := w.result(t)
			if err == nil {
				granted++
				requireHeldBy(t, b, resource(path), got.Owner)
				continue
			}
			require.ErrorIs(t, err, context.Canceled)
			if errors.Is(err, enhanced.ErrOutcomeUnknown) {
				Eventually(t, "the lock is free", func() bool {
					_, err := b.LookupLock(t.Context(), resource(path))
					return errors.Is(err, enhanced.ErrLockNotFound)
				})
				continue
			}
			requireFree(t, b, resource(path))
		}
		t.Logf("%d of %d got it", granted, Rounds(2_000))
		require.Zero(t, queueLength(t, b))
		requireVerified(t, b)
	})

	// As in etcd's TryLock: a call whose context ended left a waiter that got the lock.
	t.Run("who goes away at any moment leaves nothing", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		for round := range Rounds(2_000) {
			lock := acquire(t, b, userRequest("holder", "."))
			ctx, cancel := context.WithCancel(t.Context())
			var got *enhanced.EnhancedLock
			Together(3, func(i int) {
				switch i {
				case 0:
					got, _ = b.AcquireLock(ctx, userRequest("next", "."))
				case 1:
					_, _, err := b.TryAcquireLock(t.Context(), userRequest("holder", "moment"+itoa(round%7)))
					assert.NoError(t, err)
					cancel()
				case 2:
					assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				}
			})
			if got != nil {
				require.NoError(t, b.ReleaseLock(t.Context(), got.ID))
			}
			Eventually(t, "the lock is free", func() bool {
				_, err := b.LookupLock(t.Context(), resource("."))
				return errors.Is(err, enhanced.ErrLockNotFound)
			})
		}
		require.Zero(t, queueLength(t, b))
		requireVerified(t, b)
	})

	t.Run("many who give up leave nothing", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var calls sync.WaitGroup
		for i := range 1_000 {
			calls.Go(func() {
				_, err := b.AcquireLock(ctx, userRequest(fmt.Sprint("u", i), "."))
				assert.ErrorIs(t, err, context.Canceled)
			})
		}
		Eventually(t, "all wait", func() bool { return queueLength(t, b) == 1_000 })
		_, err := b.AcquireLock(t.Context(), userRequest("late", "."))
		require.ErrorIs(t, err, enhanced.ErrQueueFull)
		cancel()
		calls.Wait()
		Eventually(t, "none waits", func() bool { return queueLength(t, b) == 0 })
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		requireFree(t, b, resource("."))
		Eventually(t, "all have left the store", func() bool {
			page, err := b.ReadLog(t.Context(), repo, 0, 10_000)
			require.NoError(t, err)
			left := 0
			for _, r := range page.Records {
				if r.Type == enhanced.EventCancelled {
					left++
				}
			}
			return left == 1_000
		})
		requireVerified(t, b)
	})
}
