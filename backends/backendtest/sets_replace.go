package backendtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func testReplaceLocks(t *testing.T, newBackend NewBackend) {
	t.Helper()
	owner := pullRequest(5, "a").Owner()
	replace := func(t *testing.T, b enhanced.Backend, set []*enhanced.EnhancedLockRequest) *enhanced.ReplacedLocks {
		t.Helper()
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, owner, set)
		require.NoError(t, err)
		require.Len(t, replaced.Held, len(set))
		return replaced
	}

	t.Run("keeps, takes and frees", func(t *testing.T) {
		b := newBackend(t, nil)
		before := lockSet(t, b, setOf(ofPull(5), "a", "b", "c"))
		others := acquire(t, b, pullRequest(55, "x"))
		replaced := replace(t, b, setOf(ofPull(5), "d", "b", "a"))
		require.Equal(t, []string{before[1].ID, before[0].ID}, ids(replaced.Held[1:]), "what is kept is as it was")
		require.Equal(t, resource("d"), replaced.Held[0].Resource)
		require.Equal(t, ids(replaced.Held[:1]), ids(replaced.Taken))
		require.Equal(t, []string{before[2].ID}, ids(replaced.Freed))
		require.Equal(t, enhanced.LockStateReleased, replaced.Freed[0].State)
		requireFree(t, b, resource("c"))
		requireHeldBy(t, b, resource("x"), others.Owner)
		page, err := b.ReadLog(t.Context(), repo, 4, 100)
		require.NoError(t, err)
		require.Len(t, page.Records, 2)
		require.Equal(t, enhanced.EventAcquired, page.Records[0].Type)
		require.Equal(t, enhanced.EventReleased, page.Records[1].Type)
		require.Equal(t, owner.String(), page.Records[1].Actor)
		require.NoError(t, b.ReleaseLock(t.Context(), before[2].ID), "a late release of what was freed")
		requireVerified(t, b)
		freed := replace(t, b, nil)
		require.Len(t, freed.Freed, 3)
		requireCount(t, b, 1)
		requireVerified(t, b)
	})

	t.Run("twice is the same", func(t *testing.T) {
		b := newBackend(t, nil)
		lockSet(t, b, setOf(ofPull(5), "a", "b"))
		first := replace(t, b, withIDs("once", setOf(ofPull(5), "b", "c")))
		again := replace(t, b, withIDs("once", setOf(ofPull(5), "b", "c")))
		require.Equal(t, first.Held, again.Held)
		require.Empty(t, again.Taken)
		require.Empty(t, again.Freed)
		// A copy that comes late takes nothing back.
		replace(t, b, setOf(ofPull(5), "b"))
		_, err := sets(b).ReplaceAll(t.Context(), repo, owner, withIDs("once", setOf(ofPull(5), "b", "c")))
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		requireCount(t, b, 1)
	})

	t.Run("one is held by another", func(t *testing.T) {
		b := newBackend(t, nil)
		before := lockSet(t, b, setOf(ofPull(5), "a", "b"))
		acquire(t, b, userRequest("alice", "c"))
		_, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "b", "c", "d"))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.ErrorContains(t, err, "1 of 3")
		require.ErrorContains(t, err, "user alice")
		requireCount(t, b, 3)
		for _, lock := range before {
			_, err := b.GetLock(t.Context(), lock.ID)
			require.NoError(t, err)
		}
	})

	t.Run("more than one step changes", func(t *testing.T) {
		b := newBackend(t, nil)
		paths := numbered(501)
		lockSet(t, b, setOf(ofPull(5), paths[:300]...))
		_, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), paths[300:]...))
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "500")
		_, err = sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), paths...))
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		requireCount(t, b, 300)
		replaced := replace(t, b, setOf(ofPull(5), paths[300:500]...))
		require.Len(t, replaced.Freed, 300)
		require.Len(t, replaced.Taken, 200)
		requireVerified(t, b)
	})

	t.Run("a pull request of another host is another owner", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequestOf("gitlab.com", repo, 5, "a"))
		lockSet(t, b, setOf(ofPull(5), "b", "c"))
		_, err := sets(b).ReplaceAll(t.Context(), repo, owner, setOf(ofPull(5), "a"))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		replaced := replace(t, b, setOf(ofPull(5), "b"))
		require.Len(t, replaced.Freed, 1)
		requireCount(t, b, 2)
	})

	t.Run("a user", func(t *testing.T) {
		b := newBackend(t, nil)
		lockSet(t, b, setOf(ofUser("alice"), "a", "b"))
		acquire(t, b, userOf("alice", "org/other", "a"))
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, enhanced.UserOwner("alice"), setOf(ofUser("alice"), "b", "c"))
		require.NoError(t, err)
		require.Len(t, replaced.Freed, 1)
		requireCount(t, b, 3)
	})
}

func testSetsConcurrency(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("sets that overlap, in opposite order", func(t *testing.T) {
		b := newBackend(t, nil)
		const callers = 8
		paths := numbered(12)
		holders := make([]sync.Mutex, len(paths))
		won := make([]int, callers)
		rounds := Rounds(2_000)
		Together(callers, func(i int) {
			random := rand.New(rand.NewPCG(uint64(i), 7)) //nolint:gosec // a test
			for round := 0; round < rounds || won[i] == 0 && round < 100*rounds; round++ {
				chosen := random.Perm(len(paths))[:2+random.IntN(4)]
				set := make([]*enhanced.EnhancedLockRequest, len(chosen))
				for k, at := range chosen {
					set[k] = userRequest(fmt.Sprint("u", i), paths[at])
				}
				locks, err := sets(b).AcquireAll(t.Context(), set, false)
				if errors.Is(err, enhanced.ErrLockExists) {
					continue
				}
				if !assert.NoError(t, err) {
					return
				}
				won[i]++
				for k, at := range chosen {
					assert.True(t, holders[at].TryLock(), "two hold %s", paths[at])
					assert.Equal(t, resource(paths[at]), locks[k].Resource)
				}
				for _, at := range chosen {
					holders[at].Unlock()
				}
				for _, lock := range locks {
					assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				}
			}
		})
		for i, n := range won {
			require.Positive(t, n, "caller %d", i)
		}
		requireCount(t, b, 0)
		requireVerified(t, b)
	})

	t.Run("replacing keeps others out", func(t *testing.T) {
		b := newBackend(t, nil)
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
					_, acquired, err := b.TryAcquireLock(t.Context(), userRequest(fmt.Sprint("rival", i), "kept"))
					assert.NoError(t, err)
					assert.False(t, acquired, "a rival got what was kept")
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
