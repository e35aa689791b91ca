package backendtest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/stretchr/testify/require"
)

// RunDeadlockDetection is the part of the suite for backends that are a
// [enhanced.DeadlockStore].
func RunDeadlockDetection(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testDetection(t, newBackend)
	testDetectors(t, newBackend)
	testPhantoms(t, newBackend)
}

const lookInterval = 20 * time.Millisecond

func detecting(change func(c *enhanced.EnhancedConfig)) *enhanced.EnhancedConfig {
	return queueConfig(func(c *enhanced.EnhancedConfig) {
		c.EnableDeadlockDetection, c.DeadlockCheckInterval = true, lookInterval
		if change != nil {
			change(c)
		}
	})
}

// watchedStore counts how often somebody looks for deadlocks.
type watchedStore struct {
	enhanced.Backend
	enhanced.DeadlockStore
	looks atomic.Int32
}

func (w *watchedStore) WaitForGraph(ctx context.Context) (*deadlock.Graph, error) {
	w.looks.Add(1)
	return w.DeadlockStore.WaitForGraph(ctx)
}

// detect starts a manager that looks for deadlocks.
func detect(t *testing.T, b enhanced.Backend, config *enhanced.EnhancedConfig) (*enhanced.EnhancedLockManager, *watchedStore) {
	t.Helper()
	store, ok := b.(enhanced.DeadlockStore)
	require.True(t, ok)
	w := &watchedStore{Backend: b, DeadlockStore: store}
	m := enhanced.NewEnhancedLockManager(w, config, nil)
	require.NoError(t, m.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, m.Stop(context.Background())) })
	return m, w
}

// waitInCircle has alice hold vpc and wait for db with a low priority, and bob the
// other way round with a high one.
func waitInCircle(t *testing.T, b enhanced.Backend) (alice, bob *waiter, vpc, db *enhanced.EnhancedLock) {
	t.Helper()
	vpc = acquire(t, b, userRequest("alice", "vpc"))
	db = acquire(t, b, userRequest("bob", "db"))
	alice = enqueue(t, b, userWith("alice", "db", enhanced.PriorityLow))
	bob = enqueue(t, b, userWith("bob", "vpc", enhanced.PriorityHigh))
	return alice, bob, vpc, db
}

func testDetection(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("the victim's call ends with DEADLOCK, and its lock stays", func(t *testing.T) {
		b := newBackend(t, detecting(nil))
		alice, bob, vpc, _ := waitInCircle(t, b)
		detect(t, b, detecting(nil))
		_, err := alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
		require.ErrorContains(t, err, "user alice")
		require.ErrorContains(t, err, "lowest_priority")
		require.ErrorContains(t, err, "held by user bob")
		bob.requireWaits(t)
		_, err = b.GetLock(t.Context(), vpc.ID)
		require.NoError(t, err)

		record := requireLogged(t, b, enhanced.EventDeadlock, "user:alice")
		require.Equal(t, enhanced.DeadlockVictim, record.Deadlock.Outcome)
		require.Equal(t, enhanced.PolicyLowestPriority, record.Deadlock.Policy)
		require.Equal(t, enhanced.SystemStore, record.Actor)
		require.Equal(t, enhanced.CauseDeadlock, record.Cause)
		require.Len(t, record.Deadlock.Cycle, 2)
		require.NoError(t, b.ReleaseLock(t.Context(), vpc.ID))
		bob.requireGranted(t)
		requireVerified(t, b)
	})

	t.Run("with release-held the victim's lock is released by force", func(t *testing.T) {
		config := detecting(func(c *enhanced.EnhancedConfig) {
			c.DeadlockReleaseHeld, c.ResolutionPolicy = true, enhanced.PolicyOldest
		})
		b := newBackend(t, config)
		other := acquire(t, b, userRequest("alice", "other"))
		alice, bob, vpc, _ := waitInCircle(t, b)
		detect(t, b, config)
		_, err := alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
		bob.requireGranted(t)
		_, err = b.GetLock(t.Context(), vpc.ID)
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		_, err = b.GetLock(t.Context(), other.ID)
		require.NoError(t, err, "nobody in the circle waits for it")
		record := requireLogged(t, b, enhanced.EventReleased, "user:alice")
		require.Equal(t, enhanced.CauseForced, record.Cause)
		require.Equal(t, enhanced.SystemStore, record.Actor)
		require.Contains(t, record.Reason, "oldest")
		requireVerified(t, b)
	})

	t.Run("a detached victim leaves its queue", func(t *testing.T) {
		config := detecting(func(c *enhanced.EnhancedConfig) { c.ResolutionPolicy = enhanced.PolicyYoungest })
		b := newBackend(t, config)
		acquire(t, b, pullRequest(1, "vpc"))
		acquire(t, b, pullRequest(2, "db"))
		for number, path := range map[int]string{1: "db", 2: "vpc"} {
			_, err := tryPull(t, b, number, path)
			require.NoError(t, err)
		}
		detect(t, b, config)
		Eventually(t, "one is taken out", func() bool { return queueLength(t, b) == 1 })
		requireVerified(t, b)
	})

	t.Run("a queue is re-ordered where that is enough", func(t *testing.T) {
		b := newBackend(t, detecting(nil))
		vpc := acquire(t, b, userRequest("holder", "vpc"))
		db := acquire(t, b, userRequest("bob", "db"))
		waits := []*waiter{
			enqueue(t, b, userRequest("bob", "vpc")),
			enqueue(t, b, userRequest("carol", "db")),
			enqueue(t, b, userWith("carol", "vpc", enhanced.PriorityHigh)), // before bob
		}
		detect(t, b, detecting(nil))
		Eventually(t, "bob is before carol", func() bool { return queueNames(t, b, "vpc")[0] == "bob" })
		record := requireLogged(t, b, enhanced.EventDeadlock, "user:bob")
		require.Equal(t, enhanced.DeadlockReordered, record.Deadlock.Outcome)
		require.Empty(t, record.Deadlock.Policy)
		requireVerified(t, b)
		require.NoError(t, b.ReleaseLock(t.Context(), vpc.ID))
		lock := waits[0].requireGranted(t)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		require.NoError(t, b.ReleaseLock(t.Context(), db.ID))
		waits[1].requireGranted(t)
		waits[2].requireGranted(t)
	})

	t.Run("a lock that is transferred can close a circle", func(t *testing.T) {
		config := detecting(preventing)
		b := newBackend(t, config)
		vpc := acquire(t, b, userRequest("carol", "vpc"))
		acquire(t, b, userRequest("bob", "db"))
		alice := enqueue(t, b, userWith("alice", "db", enhanced.PriorityLow))
		bob := enqueue(t, b, userRequest("bob", "vpc"))
		detect(t, b, config)
		require.NoError(t, b.TransferLock(t.Context(), vpc.ID, "user:alice"))
		_, err := alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
		bob.requireWaits(t)
	})

	t.Run("the policy none reports a circle once, and takes nobody out", func(t *testing.T) {
		none := detecting(func(c *enhanced.EnhancedConfig) { c.ResolutionPolicy = enhanced.PolicyNone })
		b := newBackend(t, none)
		alice, bob, _, _ := waitInCircle(t, b)
		m, store := detect(t, b, none)
		Eventually(t, "it has looked several times", func() bool { return store.looks.Load() >= 4 })
		alice.requireWaits(t)
		bob.requireWaits(t)
		reports := func() (outcomes []string) {
			page, err := b.ReadLog(t.Context(), repo, 0, 1000)
			require.NoError(t, err)
			for _, r := range page.Records {
				if r.Type == enhanced.EventDeadlock {
					outcomes = append(outcomes, r.Deadlock.Outcome)
				}
			}
			return outcomes
		}
		require.Equal(t, []string{enhanced.DeadlockFound}, reports())

		// The configuration counts from the next look on.
		require.NoError(t, m.UpdateConfiguration(detecting(nil)))
		_, err := alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
		require.Equal(t, []string{enhanced.DeadlockFound, enhanced.DeadlockVictim}, reports())
	})
}

// testDetectors is about several managers on one store.
func testDetectors(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("one manager looks at a time, and the next one when it stops", func(t *testing.T) {
		b := newBackend(t, detecting(nil))
		first, one := detect(t, b, detecting(nil))
		Eventually(t, "the first one looks", func() bool { return one.looks.Load() > 0 })
		second, two := detect(t, b, detecting(nil))
		// It is the first one for as long as the machine does not sleep through its lease.
		before := [2]int32{one.looks.Load(), two.looks.Load()}
		Eventually(t, "one goes on, and the other one does not look", func() bool {
			now := [2]int32{one.looks.Load(), two.looks.Load()}
			if now[0] > before[0] && now[1] > before[1] {
				before = now
			}
			return max(now[0]-before[0], now[1]-before[1]) >= 5
		})
		if two.looks.Load() > before[1] {
			first, one, two = second, two, one
		}

		locks, err := first.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, locks, "the lease is no lock of Atlantis'")
		require.NoError(t, first.Stop(t.Context()))
		stopped, looked := one.looks.Load(), two.looks.Load()
		Eventually(t, "the other one looks", func() bool { return two.looks.Load() >= looked+3 })
		require.Equal(t, stopped, one.looks.Load())
	})

	t.Run("who has lost the lease looks no more", func(t *testing.T) {
		b := newBackend(t, detecting(nil))
		_, store := detect(t, b, detecting(nil))
		Eventually(t, "it looks", func() bool { return store.looks.Load() > 0 })
		lease := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeGlobal, Namespace: "atlantis-locks", Name: "deadlock-detector"}
		lock, err := b.LookupLock(t.Context(), lease)
		require.NoError(t, err)
		require.NotNil(t, lock.ExpiresAt)
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, "user:somebody"))
		alice, bob, vpc, _ := waitInCircle(t, b)
		// One look may have been under way. From then on nobody acts.
		looks := store.looks.Load()
		Eventually(t, "it gets the lease again", func() bool {
			lock, err := b.LookupLock(t.Context(), lease)
			if err == nil && lock.Owner == "user:somebody" {
				require.LessOrEqual(t, store.looks.Load(), looks+1)
			}
			return err == nil && lock.Owner != "user:somebody"
		})
		_, err = alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
		require.NoError(t, b.ReleaseLock(t.Context(), vpc.ID))
		bob.requireGranted(t)
	})

	t.Run("a detector that is switched off does not look", func(t *testing.T) {
		config := queueConfig(func(c *enhanced.EnhancedConfig) { c.DeadlockCheckInterval = lookInterval })
		b := newBackend(t, config)
		m, store := detect(t, b, config)
		alice, bob, _, _ := waitInCircle(t, b)
		require.Zero(t, store.looks.Load())
		alice.requireWaits(t)
		bob.requireWaits(t)
		require.NoError(t, m.UpdateConfiguration(detecting(nil)))
		_, err := alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
	})

	t.Run("a shorter interval counts at once", func(t *testing.T) {
		config := detecting(func(c *enhanced.EnhancedConfig) { c.DeadlockCheckInterval = time.Hour })
		b := newBackend(t, config)
		m, _ := detect(t, b, config)
		alice, _, _, _ := waitInCircle(t, b)
		require.NoError(t, m.UpdateConfiguration(detecting(nil)))
		_, err := alice.result(t)
		require.ErrorIs(t, err, enhanced.ErrDeadlock)
	})
}

// testPhantoms is about cycles that are not there any more when they are to be
// ended.
func testPhantoms(t *testing.T, newBackend NewBackend) {
	t.Helper()
	// found returns the ending of the only deadlock.
	found := func(t *testing.T, b enhanced.Backend) enhanced.DeadlockEnding {
		t.Helper()
		graph, err := b.(enhanced.DeadlockStore).WaitForGraph(t.Context())
		require.NoError(t, err)
		cycles := graph.Cycles()
		require.Len(t, cycles, 1)
		return enhanced.DeadlockEnding{Cycle: cycles[0], Victim: &cycles[0][0].Waiter, Policy: enhanced.PolicyYoungest, ReleaseHeld: true}
	}
	requirePhantom := func(t *testing.T, b enhanced.Backend, ending enhanced.DeadlockEnding) {
		t.Helper()
		length := queueLength(t, b)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		for _, victim := range []*deadlock.Waiter{ending.Victim, nil} {
			ending.Victim = victim
			report, err := b.(enhanced.DeadlockStore).EndDeadlock(t.Context(), ending)
			require.NoError(t, err)
			require.Nil(t, report)
		}
		require.Equal(t, length, queueLength(t, b))
		after, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Equal(t, locks, after)
	}

	t.Run("a waiter of the cycle has left", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		alice, bob, _, _ := waitInCircle(t, b)
		ending := found(t, b)
		bob.cancel()
		_, err := bob.result(t)
		require.ErrorIs(t, err, enhanced.ErrTimeout)
		Eventually(t, "it has left", func() bool { return queueLength(t, b) == 1 })
		requirePhantom(t, b, ending)
		alice.requireWaits(t)
	})

	t.Run("a lock of the cycle was released, and is another one's", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		alice, bob, _, db := waitInCircle(t, b)
		first := enqueue(t, b, userWith("erin", "db", enhanced.PriorityCritical))
		ending := found(t, b)
		require.NoError(t, b.ReleaseLock(t.Context(), db.ID))
		first.requireGranted(t)
		requirePhantom(t, b, ending)
		alice.requireWaits(t)
		bob.requireWaits(t)
	})

	t.Run("a waiter of the cycle has gone before the other one", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("holder", "vpc"))
		acquire(t, b, userRequest("bob", "db"))
		for _, w := range []*enhanced.EnhancedLockRequest{
			userRequest("bob", "vpc"), userRequest("carol", "db"), userWith("carol", "vpc", enhanced.PriorityHigh),
		} {
			enqueue(t, b, w)
		}
		ending := found(t, b)
		mover, ok := b.(enhanced.RequestMover)
		require.True(t, ok)
		require.NoError(t, mover.MoveRequest(t.Context(), resource("vpc"), "user:bob", "user:admin", ""))
		requirePhantom(t, b, ending)
	})

	t.Run("a lease of the cycle has ended", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, leased(userRequest("alice", "vpc"), time.Hour))
		acquire(t, b, userRequest("bob", "db"))
		alice := enqueue(t, b, userRequest("alice", "db"))
		bob := enqueue(t, b, userRequest("bob", "vpc"))
		ending := found(t, b)
		endSoon(t, b, lock)
		Eventually(t, "the lease has ended", func() bool {
			_, err := b.GetLock(t.Context(), lock.ID)
			return errors.Is(err, enhanced.ErrLockExpired)
		})
		report, err := b.(enhanced.DeadlockStore).EndDeadlock(t.Context(), ending)
		require.NoError(t, err)
		require.Nil(t, report)
		bob.requireGranted(t)
		alice.requireWaits(t)
	})

	t.Run("what is no cycle is refused", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		waitInCircle(t, b)
		store, ok := b.(enhanced.DeadlockStore)
		require.True(t, ok)
		ending := found(t, b)
		ending.Victim = &deadlock.Waiter{Owner: "user:erin", Resource: ending.Victim.Resource, Request: "other"}
		_, err := store.EndDeadlock(t.Context(), ending)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "user:erin")
		ending.Cycle = ending.Cycle[:1]
		_, err = store.EndDeadlock(t.Context(), ending)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.Equal(t, 2, queueLength(t, b))
	})
}
