package backendtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reserving is a configuration whose sets are old from the start.
func reserving() *enhanced.EnhancedConfig {
	return queueConfig(func(c *enhanced.EnhancedConfig) { c.SetReserveAfter = time.Nanosecond })
}

func testSetsReserve(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("what is free is kept for an old set", func(t *testing.T) {
		b := newBackend(t, reserving())
		a, c := acquire(t, b, userRequest("holder", "a")), acquire(t, b, userRequest("holder", "c"))
		w := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c"))
		kept, acquired, err := b.TryAcquireLock(t.Context(), userRequest("other", "b"))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, pullRequest(5, "a").Owner().String(), kept.Owner)
		require.Empty(t, kept.ID, "it is no lock")
		_, err = sets(b).AcquireAll(t.Context(), setOf(ofPull(6), "b", "d"), false)
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.ErrorContains(t, err, "pull request 5")
		before, behind := enqueue(t, b, userWith("before", "a", enhanced.PriorityCritical)), enqueue(t, b, userRequest("behind", "b"))
		release(t, b, a)
		before.requireWaits(t)
		w.requireWaits(t)
		requireCount(t, b, 1)
		release(t, b, c)
		locks := w.requireGranted(t)
		release(t, b, locks...)
		before.requireGranted(t)
		behind.requireGranted(t)
		requireVerified(t, b)
	})

	t.Run("what was kept goes on when the set leaves", func(t *testing.T) {
		for name, leave := range map[string]func(b enhanced.Backend, w *waitingSet){
			"context": func(_ enhanced.Backend, w *waitingSet) { w.cancel() },
			"closed": func(b enhanced.Backend, _ *waitingSet) {
				_, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
				require.NoError(t, err)
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBackend(t, reserving())
				acquire(t, b, userRequest("holder", "a"))
				w := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c", "e"))
				behind, set := enqueue(t, b, userRequest("behind", "b")), enqueueSet(t, b, setOf(ofPull(6), "c", "d"))
				place, before := pullRequest(7, "e"), queueLength(t, b)
				place.Detached = true
				_, acquired, err := b.TryAcquireLock(t.Context(), place)
				require.NoError(t, err)
				require.False(t, acquired)
				hasPlace := queueLength(t, b) > before
				leave(b, w)
				_, err = w.result(t)
				require.Error(t, err)
				if hasPlace && name == "closed" { // no call looks after it
					requireHeldBy(t, b, resource("e"), place.Owner().String())
				}
				behind.requireGranted(t)
				set.requireGranted(t)
				requireVerified(t, b)
			})
		}
	})

	t.Run("a moved request passes", func(t *testing.T) {
		b := newBackend(t, reserving())
		mover, ok := b.(enhanced.RequestMover)
		if !ok {
			return
		}
		acquire(t, b, userRequest("holder", "a"))
		w := enqueueSet(t, b, setOf(ofPull(5), "a", "b"))
		urgent := enqueue(t, b, userRequest("urgent", "b"))
		require.NoError(t, mover.MoveRequest(t.Context(), resource("b"), "user:urgent", "user:admin", "an outage"))
		acquire(t, b, userRequest("holder", "x"))
		Eventually(t, "it is granted", func() bool {
			select {
			case <-urgent.done:
				return true
			default:
				return false
			}
		})
		urgent.requireGranted(t)
		w.requireWaits(t)
	})

	t.Run("sets in a circle", func(t *testing.T) {
		b := newBackend(t, reserving())
		const n = 6
		paths := numbered(n)
		locks := lockSet(t, b, setOf(ofUser("holder"), paths...))
		var waiting []*waitingSet
		for i := range n {
			waiting = append(waiting, enqueueSet(t, b, setOf(ofPull(10+i), paths[i], paths[(i+1)%n])))
		}
		release(t, b, locks...)
		// The oldest has its turn first; of the others those that share nothing with
		// an older one have theirs beside it.
		release(t, b, waiting[0].requireGranted(t)...)
		for _, w := range waiting[1:] {
			release(t, b, w.requireGranted(t)...)
		}
		requireCount(t, b, 0)
		requireVerified(t, b)
	})

	t.Run("the oldest first", func(t *testing.T) {
		b := newBackend(t, reserving())
		a, d := acquire(t, b, userRequest("holder", "a")), acquire(t, b, userRequest("holder", "d"))
		old, young := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c")), enqueueSet(t, b, setOf(ofPull(6), "b", "d"))
		release(t, b, d)
		young.requireWaits(t)
		release(t, b, a)
		locks := old.requireGranted(t)
		young.requireWaits(t)
		release(t, b, locks...)
		young.requireGranted(t)
	})

	t.Run("a stream of others does not starve a set", func(t *testing.T) {
		const after = 200 * time.Millisecond
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.SetReserveAfter = after }))
		paths := numbered(8)
		stop := make(chan struct{})
		var stream sync.WaitGroup
		var passed atomic.Int64
		// Two for each resource: one is always there when the other releases.
		for i := range 2 * len(paths) {
			stream.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					lock, err := b.AcquireLock(t.Context(), userRequest(fmt.Sprint("u", i), paths[i/2]))
					if !assert.NoError(t, err) {
						return
					}
					passed.Add(1)
					assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				}
			})
		}
		Eventually(t, "the stream flows", func() bool { return passed.Load() > 100 })
		// Those who hold a resource release it at once, so that it can't take long.
		ctx, cancel := context.WithTimeout(t.Context(), after+patience)
		defer cancel()
		came := time.Now()
		locks, err := sets(b).AcquireAll(ctx, setOf(ofPull(5), paths...), true)
		waited := time.Since(came)
		assert.NoError(t, err)
		for _, lock := range locks {
			assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		}
		close(stop)
		stream.Wait()
		require.Len(t, locks, len(paths))
		t.Logf("waited %v, while %d passed", waited, passed.Load())
		requireVerified(t, b)
	})
}

// testSetsReplaceQueue is about ReplaceAll where others wait.
func testSetsReplaceQueue(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("replacing, with a waiter on each", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		owner := pullRequest(5, "a").Owner()
		lockSet(t, b, setOf(ofPull(5), "a", "b", "c"))
		waiters := make(map[string]*waiter)
		for _, path := range []string{"a", "b", "c"} {
			waiters[path] = enqueue(t, b, userRequest("w"+path, path))
		}
		both := enqueueSet(t, b, setOf(ofPull(6), "c", "d"))
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "b", "a", "d"))
		require.NoError(t, err)
		require.Len(t, replaced.Freed, 1)
		waiters["c"].requireGranted(t)
		waiters["a"].requireWaits(t)
		waiters["b"].requireWaits(t)
		both.requireWaits(t)
		requireHeldBy(t, b, resource("d"), owner.String())
		_, err = sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "a"))
		require.NoError(t, err)
		waiters["b"].requireGranted(t)
		waiters["a"].requireWaits(t)
		requireVerified(t, b)
	})

	t.Run("who waits for what is freed and what is taken", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		owner := pullRequest(5, "a").Owner()
		lockSet(t, b, setOf(ofPull(5), "a"))
		w := enqueueSet(t, b, setOf(ofPull(6), "a", "b"))
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "b"))
		require.NoError(t, err)
		w.requireWaits(t)
		release(t, b, replaced.Held...)
		w.requireGranted(t)
	})

	t.Run("again and again, with waiters that change", func(t *testing.T) {
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.QueueTimeout = 5 * time.Millisecond }))
		owner := pullRequest(5, "a").Owner()
		lockSet(t, b, setOf(ofPull(5), "kept", "x"))
		stop := make(chan struct{})
		var rivals sync.WaitGroup
		for i := range 4 {
			rivals.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					_, err := b.AcquireLock(t.Context(), userRequest(fmt.Sprint("rival", i), "kept"))
					assert.ErrorIs(t, err, enhanced.ErrTimeout, "a rival got what was kept")
				}
			})
		}
		for round := range Rounds(2_000) {
			other := []string{"x", "y"}[round%2]
			_, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "kept", other))
			require.NoError(t, err)
		}
		close(stop)
		rivals.Wait()
		requireVerified(t, b)
	})
}

func testSetsQueueConcurrency(t *testing.T, newBackend NewBackend) {
	t.Helper()
	for name, config := range map[string]*enhanced.EnhancedConfig{"young": queueConfig(nil), "old": reserving()} {
		t.Run("everybody has his turn, "+name, func(t *testing.T) {
			b := newBackend(t, config)
			const callers = 8
			paths := numbered(10)
			holders := make([]sync.Mutex, len(paths))
			rounds := max(Rounds(1_000)/5, 1)
			Together(callers, func(i int) {
				random := rand.New(rand.NewPCG(uint64(i), 11)) //nolint:gosec // a test
				for range rounds {
					chosen := random.Perm(len(paths))[:1+random.IntN(4)]
					var locks []*enhanced.EnhancedLock
					var err error
					switch set := setOf(ofUser(fmt.Sprint("u", i))); {
					case len(chosen) == 1:
						var lock *enhanced.EnhancedLock
						lock, err = b.AcquireLock(t.Context(), userRequest(fmt.Sprint("u", i), paths[chosen[0]]))
						locks = append(locks, lock)
					default:
						for _, at := range chosen {
							set = append(set, userRequest(fmt.Sprint("u", i), paths[at]))
						}
						locks, err = sets(b).AcquireAll(t.Context(), set, true)
					}
					if !assert.NoError(t, err) {
						return
					}
					for _, at := range chosen {
						assert.True(t, holders[at].TryLock(), "two hold %s", paths[at])
					}
					for _, at := range chosen {
						holders[at].Unlock()
					}
					for _, lock := range locks {
						assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
					}
				}
			})
			requireCount(t, b, 0)
			require.Zero(t, queueLength(t, b))
			requireVerified(t, b)
		})
	}
}
