package backendtest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func testConcurrency(t *testing.T, newBackend NewBackend) {
	t.Run("one release in each round", func(t *testing.T) {
		b := newBackend(t, nil)
		for round := range Rounds(2_000) {
			lock := acquire(t, b, pullRequest(5, "."))
			var released atomic.Int32
			Together(8, func(i int) {
				var err error
				switch i % 4 {
				case 0:
					var ended *enhanced.EnhancedLock
					ended, err = b.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID})
					if err == nil && ended.AcquiredAt.IsZero() {
						return // the answer of a repetition
					}
				case 1:
					_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
				case 2:
					var locks []*enhanced.EnhancedLock
					locks, err = b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
					if err == nil && len(locks) == 0 {
						return
					}
				case 3:
					_, err = b.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Force: true, Actor: "user:admin"})
				}
				switch {
				case err == nil:
					released.Add(1)
				case !errors.Is(err, enhanced.ErrLockNotFound):
					t.Error(err)
				}
			})
			require.EqualValues(t, 1, released.Load(), "round %d", round)
		}
	})

	t.Run("a critical section", func(t *testing.T) {
		b := newBackend(t, nil)
		rounds := Rounds(4_000)
		var inside atomic.Int32
		var entered atomic.Int64
		Together(16, func(i int) {
			for range rounds / 16 {
				lock, acquired, err := b.TryAcquireLock(t.Context(), pullRequest(i+1, "."))
				if err != nil {
					t.Error(err)
					return
				}
				if !acquired {
					continue
				}
				if inside.Add(1) != 1 {
					t.Error("two holders at once")
				}
				entered.Add(1)
				inside.Add(-1)
				if err := b.ReleaseLock(t.Context(), lock.ID); err != nil {
					t.Error(err)
				}
			}
		})
		require.Positive(t, entered.Load())
		requireFree(t, b, resource("."))
	})

	t.Run("unlock-by-pull frees only what its pull request holds", func(t *testing.T) {
		// Stock reads the locks in one transaction and deletes them in others;
		// who takes one in between loses it.
		b := newBackend(t, nil)
		for range Rounds(1_000) {
			acquire(t, b, pullRequest(5, "."))
			var won atomic.Pointer[enhanced.EnhancedLock]
			Together(4, func(i int) {
				if i%2 == 0 {
					if _, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis); err != nil {
						t.Error(err)
					}
					return
				}
				lock, acquired, err := b.TryAcquireLock(t.Context(), pullRequest(100+i, "."))
				if err != nil {
					t.Error(err)
				}
				if acquired {
					won.Store(lock)
				}
			})
			if lock := won.Load(); lock != nil {
				require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			}
		}
	})
}

func testContexts(t *testing.T, newBackend NewBackend) {
	t.Run("an ended context has no effect", func(t *testing.T) {
		b := newBackend(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.AcquireLock(ctx, pullRequest(5, "."))
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
		_, err = b.ListLocks(ctx)
		require.ErrorIs(t, err, context.Canceled)
		requireFree(t, b, resource("."))
	})

	t.Run("a context that ends meanwhile", func(t *testing.T) {
		// The caller has the lock, or an error that says what it may rely on.
		b := newBackend(t, nil)
		for i := range Rounds(2_000) {
			ctx, cancel := context.WithCancel(t.Context())
			request := pullRequest(5, "p"+itoa(i))
			var lock *enhanced.EnhancedLock
			var err error
			Together(2, func(who int) {
				if who == 0 {
					cancel()
					return
				}
				lock, err = b.AcquireLock(ctx, request)
			})
			if err == nil {
				requireHeldBy(t, b, resource("p"+itoa(i)), lock.Owner)
				continue
			}
			require.ErrorIs(t, err, context.Canceled)
			if !errors.Is(err, enhanced.ErrOutcomeUnknown) {
				// A later step on the store: an effect would be seen after it.
				acquire(t, b, pullRequest(6, "probe"+itoa(i)))
				requireFree(t, b, resource("p"+itoa(i)))
			}
		}
	})
}
