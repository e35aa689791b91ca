package backendtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// RunQueue is the part of the suite for backends that have queues.
func RunQueue(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testTurns(t, newBackend)
	testLeaving(t, newBackend)
	testManyOfOne(t, newBackend)
	testPeers(t, newBackend)
	testTold(t, newBackend)
}

// testTurns is about who gets the lock, and when.
func testTurns(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("in order of priority, then of arrival", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		var waiters []*waiter
		for i, p := range []enhanced.Priority{
			enhanced.PriorityLow, enhanced.PriorityNormal, enhanced.PriorityCritical, enhanced.PriorityNormal,
			enhanced.PriorityHigh, enhanced.PriorityCritical, enhanced.PriorityLow,
		} {
			waiters = append(waiters, enqueue(t, b, userWith(fmt.Sprint("u", i), ".", p)))
		}
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.Equal(t, 7, status.Size)
		require.Equal(t, map[enhanced.Priority]int{
			enhanced.PriorityLow: 2, enhanced.PriorityNormal: 2, enhanced.PriorityHigh: 1, enhanced.PriorityCritical: 2,
		}, status.QueuesByPriority)
		order := []int{2, 5, 4, 1, 3, 0, 6}
		for i, number := range order {
			pending := status.PendingRequests[i]
			require.Equal(t, fmt.Sprint("u", number), pending.User.Username)
			require.Equal(t, resource("."), pending.Resource)
			require.Equal(t, waiters[number].request.Priority, pending.Priority)
			require.Equal(t, enhanced.NoTimeout, pending.Timeout)
		}
		require.True(t, status.OldestRequest.Equal(status.PendingRequests[5].RequestedAt))
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 7, stats.QueueDepth)
		for i, number := range order {
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			next := waiters[number].requireGranted(t)
			require.Greater(t, next.Version, lock.Version)
			require.Equal(t, waiters[number].request.Priority, next.Priority)
			lock = next
			for _, later := range order[i+1:] {
				waiters[later].requireWaits(t)
			}
		}
		require.Zero(t, queueLength(t, b))
		requireVerified(t, b)
	})

	t.Run("no busy resource delays another", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("holder", "busy"))
		enqueue(t, b, userWith("first", "busy", enhanced.PriorityCritical))
		free := acquire(t, b, userRequest("holder", "free"))
		second := enqueue(t, b, userWith("second", "free", enhanced.PriorityLow))
		require.NoError(t, b.ReleaseLock(t.Context(), free.ID))
		second.requireGranted(t)
	})

	t.Run("whatever frees the lock hands it over", func(t *testing.T) {
		for name, free := range map[string]func(b enhanced.Backend, lock *enhanced.EnhancedLock) error{
			"by ID": func(b enhanced.Backend, lock *enhanced.EnhancedLock) error {
				return b.ReleaseLock(t.Context(), lock.ID)
			},
			"by owner": func(b enhanced.Backend, lock *enhanced.EnhancedLock) error {
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
				return err
			},
			"by force": func(b enhanced.Backend, lock *enhanced.EnhancedLock) error {
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true, Actor: "user:admin"})
				return err
			},
			"by pull": func(b enhanced.Backend, _ *enhanced.EnhancedLock) error {
				_, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBackend(t, queueConfig(nil))
				lock := acquire(t, b, pullRequest(5, "."))
				waiting := pullRequest(6, ".")
				waiting.ID, waiting.Timeout, waiting.Metadata = "once", time.Hour, map[string]string{enhanced.MetadataNote: "next"}
				w := enqueue(t, b, waiting)
				require.NoError(t, free(b, lock))
				granted := w.requireGranted(t)
				require.Equal(t, "next", granted.Metadata[enhanced.MetadataNote])
				require.Equal(t, 6, granted.OriginalLock.Pull.Num)
				require.NotNil(t, granted.ExpiresAt)
				require.Equal(t, time.Hour, granted.ExpiresAt.Sub(granted.AcquiredAt))
				requireHeldBy(t, b, resource("."), granted.Owner)
				// The same request has what it got.
				again := acquire(t, b, waiting)
				require.Equal(t, granted.ID, again.ID)
			})
		}
	})

	// As in redisson/redisson#3730 and #4705, and in redis/rueidis 3df98dd: the first
	// one in line waited for a message that the end of a lease did not send.
	t.Run("a lease that ends, with nobody to look after it", func(t *testing.T) {
		// A busy machine is late at times, and not always.
		late := time.Hour
		for attempt := 0; late >= time.Second && attempt < 10; attempt++ {
			b := newBackend(t, queueConfig(nil))
			lock := acquire(t, b, leased(userRequest("holder", "."), 500*time.Millisecond))
			next, err := b.AcquireLock(t.Context(), userRequest("next", "."))
			require.NoError(t, err)
			page, err := b.ReadLog(t.Context(), repo, 0, 100)
			require.NoError(t, err)
			if slices.ContainsFunc(page.Records, func(r *enhanced.LogRecord) bool { return r.Type == enhanced.EventQueued }) {
				late = next.AcquiredAt.Sub(*lock.ExpiresAt)
			}
		}
		require.Less(t, late, time.Second)
	})

	t.Run("a request that is sent again waits once", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		request := userRequest("next", ".")
		request.ID = "once"
		first := enqueue(t, b, request)
		var again [2]waiter
		var calls sync.WaitGroup
		for i := range again {
			calls.Go(func() { again[i].lock, again[i].err = b.AcquireLock(t.Context(), request) })
		}
		acquire(t, b, userRequest("holder", "other"))
		for _, other := range []*enhanced.EnhancedLockRequest{
			userRequest("other", "."), userRequest("next", "other"), userRequest("next", "free"), userRequest("other", "free"),
		} {
			other.ID = "once"
			_, err := b.AcquireLock(t.Context(), other)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		}
		require.Equal(t, 1, queueLength(t, b))
		first.cancel()
		_, err := first.result(t)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
		Eventually(t, "others wait for it", func() bool { return queueLength(t, b) == 1 })
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		calls.Wait()
		for i := range again {
			require.NoError(t, again[i].err)
			require.Equal(t, again[0].lock.ID, again[i].lock.ID)
		}
		require.NotSame(t, again[0].lock, again[1].lock)
	})

	// As with two that share a session of etcd: both held the mutex.
	t.Run("nobody waits behind himself", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		_, err := b.AcquireLock(t.Context(), userRequest("holder", "."))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		first := enqueue(t, b, userRequest("next", "."))
		second := enqueue(t, b, userRequest("next", "."))
		third := enqueue(t, b, userRequest("third", "."))
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		granted := first.requireGranted(t)
		_, err = second.result(t)
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		held := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &held)
		require.Equal(t, granted.ID, held.Holder.ID)
		third.requireWaits(t)
	})

	t.Run("who is given the lock waits no more", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		heir, after := enqueue(t, b, userRequest("heir", ".")), enqueue(t, b, userRequest("after", "."))
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, "user:heir"))
		_, err := heir.result(t)
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		after.requireWaits(t)
		requireVerified(t, b)
	})

	t.Run("a pull request is one owner, whatever is stored of its host", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, pullRequestOf("", repo, 5, "."))
		_, err := b.AcquireLock(t.Context(), pullRequest(5, "."))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.Zero(t, queueLength(t, b))
	})

	t.Run("who waits in vain is no failure of the store", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.QueueTimeout = 20 * time.Millisecond }))
		acquire(t, b, userRequest("holder", "."))
		for range 3 {
			_, err := b.AcquireLock(t.Context(), userRequest("next", "."))
			require.ErrorIs(t, err, enhanced.ErrTimeout)
		}
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Zero(t, stats.StoreFailures)
		require.EqualValues(t, 3, stats.Refused)
		require.EqualValues(t, 1, stats.SuccessfulAcquires)
		require.Equal(t, 100, stats.HealthScore)
	})

	t.Run("a call that does not wait", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		w := enqueue(t, b, userRequest("next", "."))
		found, acquired, err := b.TryAcquireLock(t.Context(), userRequest("other", "."))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, lock.ID, found.ID)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		granted := w.requireGranted(t)
		found, acquired, err = b.TryAcquireLock(t.Context(), userRequest("other", "."))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, granted.ID, found.ID)
	})

	// As in hashicorp/consul#1006: each hand-over took five seconds.
	t.Run("a long queue is served in its order", func(t *testing.T) {
		n := Rounds(10_000)
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.MaxQueueSize = n }))
		lock := acquire(t, b, userRequest("holder", "."))
		order := make(chan string, n)
		var calls sync.WaitGroup
		for i := range n {
			calls.Go(func() {
				lock, err := b.AcquireLock(t.Context(), userRequest(fmt.Sprint("u", i), "."))
				if assert.NoError(t, err) {
					order <- lock.Owner
					assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				}
			})
		}
		Eventually(t, "all wait", func() bool { return queueLength(t, b) == n })
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		for _, pending := range status.PendingRequests {
			require.Equal(t, pending.Owner().String(), <-order)
		}
		calls.Wait()
		requireFree(t, b, resource("."))
		requireVerified(t, b)
	})

	t.Run("ageing", func(t *testing.T) {
		aging := queueConfig(func(c *enhanced.EnhancedConfig) { c.PriorityAgingInterval = time.Millisecond })
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "."))
		low := enqueue(t, b, userWith("low", ".", enhanced.PriorityLow))
		came := time.Now()
		Eventually(t, "it has waited for longer than three intervals", func() bool { return time.Since(came) > 20*time.Millisecond })
		high := enqueue(t, b, userWith("high", ".", enhanced.PriorityCritical))
		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.Equal(t, "high", status.PendingRequests[0].User.Username, "priorities are strict")
		// A change of the interval counts for those who wait already, from the
		// next one that comes.
		require.NoError(t, b.UpdateConfiguration(aging))
		last := enqueue(t, b, userWith("last", ".", enhanced.PriorityHigh))
		requireVerified(t, b)
		for _, w := range []*waiter{low, high, last} {
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			lock = w.requireGranted(t)
		}
	})

	t.Run("the log and its readers", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		events, err := b.Subscribe(t.Context(), []string{enhanced.EventQueued, enhanced.EventGranted, enhanced.EventCancelled, enhanced.EventQueueTimeout})
		require.NoError(t, err)
		lock := acquire(t, b, userRequest("holder", "."))
		enqueue(t, b, pullRequest(6, "."))
		second := enqueue(t, b, userRequest("second", "."))
		require.NoError(t, b.CancelRequest(t.Context(), resource("."), "user:second", "user:admin"))
		_, err = second.result(t)
		require.Error(t, err)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		hasty := queueConfig(func(c *enhanced.EnhancedConfig) { c.QueueTimeout = 50 * time.Millisecond })
		require.NoError(t, b.UpdateConfiguration(hasty))
		_, err = b.AcquireLock(t.Context(), userRequest("third", "."))
		require.ErrorIs(t, err, enhanced.ErrTimeout)
		pull := "pr:" + host + "/org%2Fapp/6"
		for i, want := range []struct{ kind, owner, actor, cause string }{
			{enhanced.EventQueued, pull, pull, enhanced.CauseRequest},
			{enhanced.EventQueued, "user:second", "user:second", enhanced.CauseRequest},
			{enhanced.EventCancelled, "user:second", "user:admin", enhanced.CauseRequest},
			{enhanced.EventGranted, pull, pull, enhanced.CauseHandOver},
			{enhanced.EventQueued, "user:third", "user:third", enhanced.CauseRequest},
			{enhanced.EventQueueTimeout, "user:third", "user:third", enhanced.CauseRequest},
		} {
			event := <-events
			require.Equal(t, want.kind, event.Type, i)
			require.Equal(t, want.owner, event.Owner, i)
			require.Equal(t, want.actor, event.Metadata["actor"], i)
			require.Equal(t, want.cause, event.Metadata["cause"], i)
			require.Equal(t, resource("."), event.Resource, i)
			require.Equal(t, want.kind == enhanced.EventGranted, event.LockID != "", "%d: %q", i, event.LockID)
		}
		page, err := b.ReadLog(t.Context(), repo, 0, 100)
		require.NoError(t, err)
		for _, r := range page.Records {
			require.Equal(t, enhanced.IsQueueEvent(r.Type), r.Waiter != "", r.Type)
			if r.Waiter != "" || r.Type == enhanced.EventGranted {
				require.NotEmpty(t, r.RequestID, r.Type)
			}
		}
	})

	// As in apache/curator#1046: a release between the try and the wait was missed.
	t.Run("one after the other", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		const callers = 16
		var inside, entered atomic.Int32
		rounds := Rounds(4_000) / callers
		var done sync.WaitGroup
		for i := range callers {
			done.Go(func() {
				for range rounds {
					lock, err := b.AcquireLock(t.Context(), userRequest(fmt.Sprint("u", i), "."))
					if !assert.NoError(t, err) {
						return
					}
					assert.EqualValues(t, 1, inside.Add(1), "holders at once")
					entered.Add(1)
					inside.Add(-1)
					assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				}
			})
		}
		done.Wait()
		require.EqualValues(t, callers*rounds, entered.Load())
		requireFree(t, b, resource("."))
		requireVerified(t, b)
	})
}
