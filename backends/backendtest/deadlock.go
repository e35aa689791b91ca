package backendtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// RunDeadlock is the part of the suite for backends that refuse requests which
// would close a cycle of waits.
func RunDeadlock(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testDeadlockRefusals(t, newBackend)
	testDeadlockRepairs(t, newBackend)
	testDeadlockEdges(t, newBackend)
	testDeadlockDetached(t, newBackend)
}

func preventing(c *enhanced.EnhancedConfig) { c.DeadlockPrevention = true }

// requireDeadlock checks that a request is refused because of a cycle.
func requireDeadlock(t *testing.T, b enhanced.Backend, request *enhanced.EnhancedLockRequest) *enhanced.LockError {
	t.Helper()
	_, err := b.AcquireLock(t.Context(), request)
	require.ErrorIs(t, err, enhanced.ErrDeadlock)
	var lockErr *enhanced.LockError
	require.ErrorAs(t, err, &lockErr)
	return lockErr
}

func testDeadlockRefusals(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("who would close a circle is refused, with all who are in it", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("alice", "vpc"))
		db := acquire(t, b, userRequest("bob", "db"))
		waits := enqueue(t, b, withID(userRequest("alice", "db"), "waits"))

		err := requireDeadlock(t, b, userRequest("bob", "vpc"))
		require.Equal(t, resource("vpc"), err.Resource)
		require.Equal(t, "user:alice", err.Holder.Owner)
		require.Contains(t, err.Error(), "user bob waits for "+resource("vpc").String()+", held by user alice; "+
			"user alice waits for "+resource("db").String()+", held by user bob")
		waits.requireWaits(t)
		require.Equal(t, 1, queueLength(t, b))

		record := requireLogged(t, b, enhanced.EventDeadlock, "user:bob")
		require.Equal(t, enhanced.DeadlockRefused, record.Deadlock.Outcome)
		require.Empty(t, record.Deadlock.Policy)
		require.Empty(t, record.Deadlock.Moved)
		require.Len(t, record.Deadlock.Cycle, 2)
		first, second := record.Deadlock.Cycle[0], record.Deadlock.Cycle[1]
		require.Equal(t, record.RequestID, first.RequestID)
		require.Equal(t, "user:alice", first.For)
		require.Equal(t, waits.request.ID, second.RequestID)
		require.Equal(t, resource("db"), second.Resource)
		require.WithinDuration(t, record.Time, second.Since, time.Minute)
		require.Equal(t, record.Time, first.Since)

		// The one who is refused has to give something up; then all goes on.
		require.NoError(t, b.ReleaseLock(t.Context(), db.ID))
		waits.requireGranted(t)
		enqueue(t, b, userRequest("bob", "vpc")).requireWaits(t)
		requireVerified(t, b)
	})

	t.Run("a circle of five", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		for i := range 5 {
			acquire(t, b, userRequest(fmt.Sprint("u", i), fmt.Sprint("p", i)))
		}
		for i := range 4 {
			enqueue(t, b, userRequest(fmt.Sprint("u", i), fmt.Sprint("p", i+1)))
		}
		err := requireDeadlock(t, b, userRequest("u4", "p0"))
		for i := range 5 {
			require.Contains(t, err.Message, fmt.Sprint("user u", i, " waits for"))
		}
		// Somebody outside may wait for those in line.
		enqueue(t, b, userRequest("u5", "p0")).requireWaits(t)
	})

	t.Run("without prevention nobody is refused", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("alice", "vpc"))
		acquire(t, b, userRequest("bob", "db"))
		enqueue(t, b, userRequest("alice", "db"))
		enqueue(t, b, userRequest("bob", "vpc")).requireWaits(t)
	})

	t.Run("of two that close a circle at the same moment one is refused", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		for round := range 20 {
			owners := []string{fmt.Sprint("alice", round), fmt.Sprint("bob", round)}
			paths := []string{fmt.Sprint("vpc", round), fmt.Sprint("db", round)}
			locks := make([]*enhanced.EnhancedLock, 2)
			for i := range 2 {
				locks[i] = acquire(t, b, userRequest(owners[i], paths[i]))
			}
			start := make(chan struct{})
			refused := make(chan int, 2)
			granted := make(chan error, 2)
			var calls sync.WaitGroup
			for i := range 2 {
				calls.Go(func() {
					<-start
					_, err := b.AcquireLock(t.Context(), userRequest(owners[i], paths[1-i]))
					if errors.Is(err, enhanced.ErrDeadlock) {
						refused <- i
						return
					}
					granted <- err
				})
			}
			close(start)
			loser := <-refused
			require.Empty(t, granted, "the other one waits")
			require.NoError(t, b.ReleaseLock(t.Context(), locks[loser].ID))
			require.NoError(t, <-granted)
			calls.Wait()
			require.Empty(t, refused)
		}
	})
}

func testDeadlockRepairs(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a queue is re-ordered where that is enough", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		vpc := acquire(t, b, userRequest("holder", "vpc"))
		db := acquire(t, b, userRequest("bob", "db"))
		// carol is before bob in the queue of vpc, and waits for what bob holds.
		first := enqueue(t, b, userWith("carol", "vpc", enhanced.PriorityHigh))
		second := enqueue(t, b, userRequest("carol", "db"))
		third := enqueue(t, b, withID(userRequest("bob", "vpc"), "third"))

		status, err := b.GetQueueStatus(t.Context())
		require.NoError(t, err)
		require.Equal(t, "bob", status.PendingRequests[1].User.Username)
		require.Equal(t, "carol", status.PendingRequests[2].User.Username)
		record := requireLogged(t, b, enhanced.EventDeadlock, "user:bob")
		require.Equal(t, enhanced.DeadlockReordered, record.Deadlock.Outcome)
		require.Len(t, record.Deadlock.Moved, 1)
		require.Equal(t, third.request.ID, record.Deadlock.Moved[0].RequestID)
		require.True(t, record.Deadlock.Cycle[0].Behind)
		requireVerified(t, b)

		require.NoError(t, b.ReleaseLock(t.Context(), vpc.ID))
		vpc = third.requireGranted(t)
		require.NoError(t, b.ReleaseLock(t.Context(), vpc.ID))
		require.NoError(t, b.ReleaseLock(t.Context(), db.ID))
		first.requireGranted(t)
		second.requireGranted(t)
	})

	t.Run("waiters of one queue that are moved together keep their order", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("holder", "x"))
		acquire(t, b, userRequest("bob", "b"))
		acquire(t, b, userRequest("dave", "d"))
		enqueue(t, b, userRequest("carol", "x"))
		enqueue(t, b, userRequest("bob", "x")) // behind carol, who does not wait for it yet
		enqueue(t, b, userRequest("dave", "x"))
		enqueue(t, b, userRequest("dave", "b"))
		// carol waits for dave, who waits for bob: both have to go before carol.
		enqueue(t, b, userRequest("carol", "d"))

		record := requireLogged(t, b, enhanced.EventDeadlock, "user:carol")
		require.Equal(t, enhanced.DeadlockReordered, record.Deadlock.Outcome)
		require.Len(t, record.Deadlock.Moved, 2)
		requireVerified(t, b)
		require.Equal(t, []string{"bob", "dave", "carol"}, queueNames(t, b, "x"))
		// A change of the order leaves them where they were put.
		require.NoError(t, b.UpdateConfiguration(queueConfig(func(c *enhanced.EnhancedConfig) { c.PriorityAgingInterval = time.Hour })))
		enqueue(t, b, userWith("erin", "x", enhanced.PriorityCritical))
		require.Equal(t, []string{"bob", "dave", "erin", "carol"}, queueNames(t, b, "x"))
		requireVerified(t, b)
	})
}

// queueNames returns the users that wait for a path, in order.
func queueNames(t *testing.T, b enhanced.Backend, path string) (names []string) {
	t.Helper()
	status, err := b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	for _, r := range status.PendingRequests {
		if r.Resource == resource(path) {
			names = append(names, r.User.Username)
		}
	}
	return names
}

// testDeadlockEdges is about what is an edge and what is none.
func testDeadlockEdges(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("beyond the limit a request is admitted, and counted", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) {
			c.DeadlockPrevention, c.DeadlockCheckLimit = true, 2
		}))
		for i := range 4 {
			acquire(t, b, userRequest(fmt.Sprint("u", i), fmt.Sprint("p", i)))
		}
		for i := range 3 {
			enqueue(t, b, userRequest(fmt.Sprint("u", i), fmt.Sprint("p", i+1)))
		}
		before, err := b.GetStats(t.Context())
		require.NoError(t, err)
		enqueue(t, b, userRequest("u3", "p0")).requireWaits(t)
		Eventually(t, "it is counted", func() bool {
			stats, err := b.GetStats(t.Context())
			return err == nil && stats.UncheckedWaits == before.UncheckedWaits+1
		})
	})

	t.Run("a lease that has ended is no edge", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		short := userRequest("alice", "vpc")
		short.Timeout = time.Millisecond
		lock := acquire(t, b, short)
		Eventually(t, "the lease has ended", func() bool {
			_, err := b.GetLock(t.Context(), lock.ID)
			return errors.Is(err, enhanced.ErrLockExpired)
		})
		acquire(t, b, userRequest("bob", "db"))
		enqueue(t, b, userRequest("alice", "db"))
		acquire(t, b, userRequest("bob", "vpc"))
	})

	t.Run("a waiter that has left is no edge", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("alice", "vpc"))
		acquire(t, b, userRequest("bob", "db"))
		gone := enqueue(t, b, userRequest("alice", "db"))
		require.Error(t, requireDeadlock(t, b, userRequest("bob", "vpc")))
		gone.cancel()
		_, err := gone.result(t)
		require.ErrorIs(t, err, enhanced.ErrTimeout)
		Eventually(t, "nobody waits", func() bool { return queueLength(t, b) == 0 })
		enqueue(t, b, userRequest("bob", "vpc")).requireWaits(t)
	})

	t.Run("two requests of one owner don't wait for each other", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("holder", "vpc"))
		for _, owner := range []string{"alice", "bob", "alice"} {
			enqueue(t, b, userRequest(owner, "vpc"))
		}
		enqueue(t, b, userRequest("bob", "vpc")).requireWaits(t)
	})

	t.Run("a request that goes before others can close a circle behind it", func(t *testing.T) {
		b := newBackend(t, queueConfig(preventing))
		acquire(t, b, userRequest("holder", "x"))
		acquire(t, b, userRequest("bob", "b"))
		enqueue(t, b, userRequest("bob", "x"))
		enqueue(t, b, userRequest("carol", "b"))
		// It would stand before bob, for whom carol waits.
		enqueue(t, b, userWith("carol", "x", enhanced.PriorityCritical))
		require.Equal(t, []string{"bob", "carol"}, queueNames(t, b, "x"), "bob was moved before it")
		requireVerified(t, b)
	})
}

func testDeadlockDetached(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a refused TryLock answers with the holder, and leaves no waiter", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, preventing)
		events, err := b.Subscribe(t.Context(), []string{enhanced.EventDeadlock})
		require.NoError(t, err)
		requireGets(t, a, 1, "vpc")
		requireGets(t, a, 2, "db")
		requireRefused(t, a, 1, "db", 2)
		require.Equal(t, []string{"db 1"}, queueOf(t, b))
		requireRefused(t, a, 2, "vpc", 1)
		require.Equal(t, []string{"db 1"}, queueOf(t, b))

		event := <-events
		require.Equal(t, pullID(2), event.Owner)
		require.Equal(t, resource("vpc"), event.Resource)
		require.Empty(t, event.LockID)
		require.Equal(t, enhanced.DeadlockRefused, event.Metadata["outcome"])
		require.Contains(t, event.Metadata["cycle"], "pull request 2 on "+host+" waits for "+resource("vpc").String())
		require.NotNil(t, requireLogged(t, b, enhanced.EventDeadlock, pullID(2)).Deadlock, "the reason is stored")

		// It has its turn once the circle is broken.
		unlock(t, a, "db")
		requireClaimable(t, b, "db", 1)
		requireRefused(t, a, 2, "vpc", 1)
		require.Equal(t, []string{"vpc 2"}, queueOf(t, b))
		requireVerified(t, b)
	})

	t.Run("a call that waits and a detached waiter close a circle", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, preventing)
		requireGets(t, a, 1, "vpc")
		acquire(t, b, userRequest("alice", "db"))
		acquired, err := tryPull(t, b, 1, "db")
		require.NoError(t, err)
		require.False(t, acquired)
		require.Error(t, requireDeadlock(t, b, userRequest("alice", "vpc")))
	})

	t.Run("what is reserved counts as held", func(t *testing.T) {
		a, b := queueAdapter(t, newBackend, preventing)
		requireGets(t, a, 1, "vpc")
		acquire(t, b, userRequest("alice", "db"))
		acquire(t, b, userRequest("carol", "dns"))
		requireRefused(t, a, 3, "vpc", 1)
		giveBack(t, a, 1, "vpc") // and may take it again
		acquired, err := tryPull(t, b, 1, "db")
		require.NoError(t, err)
		require.False(t, acquired)
		require.Error(t, requireDeadlock(t, b, userRequest("alice", "vpc")))
	})
}

// tryPull leaves a detached waiter for a pull request.
func tryPull(t *testing.T, b enhanced.Backend, number int, path string) (bool, error) {
	t.Helper()
	r := pullRequest(number, path)
	r.Detached = true
	_, acquired, err := b.TryAcquireLock(t.Context(), r)
	return acquired, err
}
