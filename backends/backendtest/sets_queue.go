package backendtest

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// RunSetsQueue is the part of the suite for backends whose queues have sets.
func RunSetsQueue(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testSetsWait(t, newBackend)
	testSetsDeadlock(t, newBackend)
	testSetsLeave(t, newBackend)
	testSetsTold(t, newBackend)
	testSetsPlace(t, newBackend)
	testSetsReserve(t, newBackend)
	testSetsReplaceQueue(t, newBackend)
	testSetsAgain(t, newBackend)
	testSetsShareAnID(t, newBackend)
	testSetsLostAnswer(t, newBackend)
	testSetsAlike(t, newBackend)
	testSetsTogether(t, newBackend)
	testSetsQueueConcurrency(t, newBackend)
}

// waitingSet is a call that waits for a set in a goroutine.
type waitingSet struct {
	set    []*enhanced.EnhancedLockRequest
	cancel context.CancelFunc
	done   chan struct{}
	locks  []*enhanced.EnhancedLock
	err    error
}

// askForSet starts a call for a set.
func askForSet(t *testing.T, b enhanced.Backend, set []*enhanced.EnhancedLockRequest) *waitingSet {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &waitingSet{set: set, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.locks, w.err = sets(b).AcquireAll(ctx, set, true)
	}()
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	return w
}

// enqueueSet starts a call for a set and returns once it waits.
func enqueueSet(t *testing.T, b enhanced.Backend, set []*enhanced.EnhancedLockRequest) *waitingSet {
	t.Helper()
	before := queueLength(t, b)
	w := askForSet(t, b, set)
	Eventually(t, "the set waits", func() bool {
		w.requireWaits(t)
		return queueLength(t, b) == before+len(set)
	})
	return w
}

func (w *waitingSet) result(t *testing.T) ([]*enhanced.EnhancedLock, error) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatalf("the set of %s still waits after %v", w.set[0].Owner().Describe(), patience)
	}
	return w.locks, w.err
}

func (w *waitingSet) requireGranted(t *testing.T) []*enhanced.EnhancedLock {
	t.Helper()
	locks, err := w.result(t)
	require.NoError(t, err)
	require.Len(t, locks, len(w.set))
	for _, lock := range locks {
		require.Equal(t, w.set[0].Owner().String(), lock.Owner)
	}
	return locks
}

func (w *waitingSet) requireWaits(t *testing.T) {
	t.Helper()
	select {
	case <-w.done:
		t.Fatalf("the set of %s does not wait: %v", w.set[0].Owner().Describe(), w.err)
	default:
	}
}

func release(t *testing.T, b enhanced.Backend, locks ...*enhanced.EnhancedLock) {
	t.Helper()
	for _, lock := range locks {
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	}
}

func testSetsWait(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a set waits whole", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		one, two := acquire(t, b, userRequest("one", "a")), acquire(t, b, userRequest("two", "c"))
		set := setOf(ofPull(5), "c", "b", "a")
		set[1].Timeout, set[2].Metadata = time.Hour, map[string]string{enhanced.MetadataNote: "mine"}
		w := enqueueSet(t, b, set)
		requireCount(t, b, 2)
		release(t, b, one)
		requireCount(t, b, 1)
		passing := acquire(t, b, userRequest("passing", "a"))
		release(t, b, two)
		w.requireWaits(t)
		requireCount(t, b, 1)
		requireVerified(t, b)
		release(t, b, passing)
		locks := w.requireGranted(t)
		require.Equal(t, resource("c"), locks[0].Resource)
		require.Equal(t, time.Hour, locks[1].ExpiresAt.Sub(locks[1].AcquiredAt))
		require.Equal(t, "mine", locks[2].Metadata[enhanced.MetadataNote])
		requireCount(t, b, 3)
		require.Zero(t, queueLength(t, b))
		for i, path := range []string{"c", "b", "a"} {
			stored, err := b.LookupLock(t.Context(), resource(path))
			require.NoError(t, err)
			require.Equal(t, stored, locks[i])
		}
		requireVerified(t, b)
	})

	t.Run("what is free is taken at once, in one step", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		locks, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "a", "b"), true)
		require.NoError(t, err)
		require.Len(t, locks, 2)
		require.Zero(t, queueLength(t, b))
	})

	t.Run("whatever frees the last one grants it", func(t *testing.T) {
		for name, free := range map[string]func(b enhanced.Backend, lock *enhanced.EnhancedLock){
			"release": func(b enhanced.Backend, lock *enhanced.EnhancedLock) { release(t, b, lock) },
			"by pull": func(b enhanced.Backend, _ *enhanced.EnhancedLock) {
				_, err := b.ReleaseByPull(t.Context(), repo, 7, enhanced.SystemAtlantis)
				require.NoError(t, err)
			},
			"replace": func(b enhanced.Backend, lock *enhanced.EnhancedLock) {
				_, err := sets(b).ReplaceAll(t.Context(), repo, pullRequest(7, "a").Owner(), setOf(ofPull(7), "other"))
				require.NoError(t, err)
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBackend(t, queueConfig(nil))
				lock := acquire(t, b, pullRequest(7, "a"))
				w := enqueueSet(t, b, setOf(ofPull(5), "a", "b"))
				free(b, lock)
				w.requireGranted(t)
			})
		}
	})

	t.Run("a lease that ends, with nobody to look after it", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		for i, path := range []string{"a", "b"} {
			leased := userRequest("holder", path)
			leased.Timeout = time.Duration(i+1) * 50 * time.Millisecond
			acquire(t, b, leased)
		}
		askForSet(t, b, setOf(ofPull(5), "a", "b")).requireGranted(t)
		requireVerified(t, b)
	})

	t.Run("in order with those who want one", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		a, c := acquire(t, b, userRequest("holder", "a")), acquire(t, b, userRequest("holder", "c"))
		before := enqueue(t, b, userRequest("before", "a"))
		w := enqueueSet(t, b, setOf(ofPull(5), "a", "b"))
		after, other := enqueue(t, b, userRequest("after", "a")), enqueueSet(t, b, setOf(ofPull(6), "b", "c"))
		release(t, b, a)
		lock := before.requireGranted(t)
		w.requireWaits(t)
		release(t, b, lock)
		locks := w.requireGranted(t)
		release(t, b, c)
		other.requireWaits(t)
		after.requireWaits(t)
		release(t, b, locks...)
		after.requireGranted(t)
		other.requireGranted(t)
	})

	t.Run("what the owner itself holds is refused at once", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		acquire(t, b, userRequest("holder", "a"))
		own := acquire(t, b, pullRequest(5, "b"))
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "a", "b"), true)
		refusal := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
		require.Equal(t, own.ID, refusal.Holder.ID)
		require.Zero(t, queueLength(t, b))
	})

	t.Run("an owner that gets a part by itself does not wait for the set", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "a"))
		w := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c"))
		behind := enqueue(t, b, userRequest("behind", "a"))
		own := acquire(t, b, pullRequest(5, "b"))
		_, err := w.result(t)
		refusal := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
		require.Equal(t, own.ID, refusal.Holder.ID)
		require.Equal(t, 1, queueLength(t, b))
		release(t, b, lock)
		behind.requireGranted(t)
		requireCount(t, b, 2)
		requireVerified(t, b)
	})

	t.Run("a set that is sent again waits once", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "a"))
		set := func() []*enhanced.EnhancedLockRequest { return withIDs("once", setOf(ofPull(5), "b", "a")) }
		first := enqueueSet(t, b, set())
		again := askForSet(t, b, set())
		for _, other := range [][]*enhanced.EnhancedLockRequest{
			withIDs("once", setOf(ofPull(6), "b", "a")), withIDs("once", setOf(ofPull(5), "b", "a", "c")),
		} {
			_, err := sets(b).AcquireAll(t.Context(), other, true)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		}
		single := set()[0]
		_, err := b.AcquireLock(t.Context(), single)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		_, err = sets(b).AcquireAll(t.Context(), set(), false)
		require.ErrorIs(t, err, enhanced.ErrLockExists, "a call that does not wait")
		first.cancel()
		_, err = first.result(t)
		require.ErrorIs(t, err, context.Canceled)
		release(t, b, lock)
		locks := again.requireGranted(t)
		require.Equal(t, locks, lockSet(t, b, set()))
		requireCount(t, b, 2)
	})

	t.Run("an owner that also has a place for one of them", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock, other := acquire(t, b, userRequest("holder", "a")), acquire(t, b, userRequest("holder", "b"))
		place := pullRequest(5, "a")
		place.Detached = true
		_, acquired, err := b.TryAcquireLock(t.Context(), place)
		require.NoError(t, err)
		require.False(t, acquired)
		if queueLength(t, b) == 0 {
			return // the backend has no such places
		}
		w := enqueueSet(t, b, setOf(ofPull(5), "a", "b"))
		release(t, b, lock)
		_, err = w.result(t)
		require.ErrorIs(t, err, enhanced.ErrLockExists, "its place was the first")
		requireHeldBy(t, b, resource("b"), other.Owner)
		requireCount(t, b, 2)
		requireVerified(t, b)
		release(t, b, other)
		locks, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "a", "b"), true)
		require.NoError(t, err, "what waits to be claimed is taken with a set")
		require.Len(t, locks, 2)
		requireCount(t, b, 2)
		requireVerified(t, b)
	})

	t.Run("an owner that waits for more than a set", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		a, c := acquire(t, b, userRequest("holder", "a")), acquire(t, b, userRequest("holder", "c"))
		other := acquire(t, b, userRequest("holder", "other"))
		one := enqueue(t, b, pullRequest(5, "other"))
		w, shares := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c")), enqueueSet(t, b, setOf(ofPull(5), "c", "d"))
		release(t, b, a)
		w.requireWaits(t)
		requireCount(t, b, 2)
		release(t, b, c)
		locks := w.requireGranted(t)
		_, err := shares.result(t)
		require.ErrorIs(t, err, enhanced.ErrLockExists, "nobody waits behind himself")
		one.requireWaits(t)
		require.Equal(t, 1, queueLength(t, b))
		requireVerified(t, b)
		release(t, b, other)
		one.requireGranted(t)
		release(t, b, locks...)
	})

	t.Run("a full queue", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.MaxQueueSize = 1 }))
		acquire(t, b, userRequest("holder", "a"))
		enqueue(t, b, userRequest("next", "a"))
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "b", "a"), true)
		require.ErrorIs(t, err, enhanced.ErrQueueFull)
		require.Equal(t, 1, queueLength(t, b))
	})

	t.Run("the manager waits, and LockAllNow does not", func(t *testing.T) {
		m, b := newSetManager(t, newBackend, queueConfig(func(c *enhanced.EnhancedConfig) { c.QueueTimeout = 50 * time.Millisecond }))
		acquire(t, b, userRequest("holder", "a"))
		_, err := m.LockAllNow(t.Context(), setOf(ofPull(5), "a", "b"))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		_, err = m.LockAll(t.Context(), setOf(ofPull(5), "b", "a"))
		refusal := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, enhanced.ErrCodeTimeout, refusal.Code)
		require.Contains(t, refusal.Message, "set of 2 resources")
		require.Contains(t, refusal.Message, "user holder")
		require.NotNil(t, refusal.Holder)
		requireCount(t, b, 1)
	})

	t.Run("in order of priority, and moved to the front", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		lock := acquire(t, b, userRequest("holder", "a"))
		low, high := setOf(ofPull(5), "a", "b"), setOf(ofPull(6), "a", "c")
		for _, r := range high {
			r.Priority = enhanced.PriorityHigh
		}
		first, second := enqueueSet(t, b, low), enqueueSet(t, b, high)
		if mover, ok := b.(enhanced.RequestMover); ok {
			require.NoError(t, mover.MoveRequest(t.Context(), resource("a"), low[0].Owner().String(), "user:admin", "urgent"))
			requireVerified(t, b)
			first, second = second, first
		}
		release(t, b, lock)
		release(t, b, second.requireGranted(t)...)
		first.requireGranted(t)
	})
}
