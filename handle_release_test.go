package enhanced_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// A renewal that is on its way is over before the lock is released.
func TestReleaseWhileRenewing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		renewing, ended := make(chan struct{}), false
		h := hold(t, &troubled{
			EnhancedLockManager: manager,
			refresh: func(ctx context.Context, refresh func() error) error {
				close(renewing)
				<-ctx.Done()
				err := errors.Join(refresh(), ctx.Err())
				ended = true
				return err
			},
			release: func(_ context.Context, release func() error) error {
				require.True(t, ended, "a renewal could come after the release")
				return release()
			},
		}, "a", enhanced.HandleOptions{})
		<-renewing
		require.NoError(t, h.Release(t.Context()))
		requireFree(t, manager, "a")
	})
}

func TestNoRenewalAfterRelease(t *testing.T) {
	t.Parallel()
	manager := newManager(t, enabled())
	const rounds, short = 100, 600 * time.Millisecond
	var done sync.WaitGroup
	for i := range rounds {
		done.Go(func() {
			var released atomic.Bool
			leaser := &troubled{EnhancedLockManager: manager, refresh: func(_ context.Context, refresh func() error) error {
				if released.Load() {
					t.Error("a renewal after the release")
				}
				return refresh()
			}}
			request := handleRequest("p" + itoa(i))
			request.Timeout = short
			h, err := enhanced.AcquireHandle(t.Context(), leaser, request, enhanced.HandleOptions{Margin: short / 2})
			if err != nil {
				t.Error(err)
				return
			}
			pass(short/3 - 2*time.Millisecond + time.Duration(rand.IntN(4000))*time.Microsecond) //nolint:gosec // no secret
			err = h.Release(t.Context())
			released.Store(true)
			if err != nil && !errors.Is(err, enhanced.ErrLockLost) {
				t.Error(err)
			}
			pass(short / 3)
		})
	}
	done.Wait()
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
}

func TestReleaseCanBeRepeatedUntilItIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		down := true
		leaser := &troubled{EnhancedLockManager: manager, release: func(_ context.Context, release func() error) error {
			if down {
				return errDown()
			}
			return release()
		}}
		h := hold(t, leaser, "a", enhanced.HandleOptions{})
		require.ErrorIs(t, h.Release(ended(t)), enhanced.ErrTimeout)
		require.ErrorIs(t, h.Release(t.Context()), enhanced.ErrBackend)
		requireHeldInStore(t, manager, h)
		down = false
		require.NoError(t, h.Release(t.Context()))
		requireFree(t, manager, "a")

		lost := true // the reply, not the request
		leaser.release = func(_ context.Context, release func() error) error {
			if err := release(); err != nil || !lost {
				return err
			}
			lost = false
			return errDown()
		}
		h = hold(t, leaser, "b", enhanced.HandleOptions{})
		require.ErrorIs(t, h.Release(t.Context()), enhanced.ErrBackend)
		require.NoError(t, h.Release(t.Context()), "it was released the first time")
	})
}

func TestDoReleasesWhateverHappens(t *testing.T) {
	t.Parallel()
	failed := errors.New("terraform failed")
	for name, work := range map[string]func(context.Context) error{
		"done":    func(context.Context) error { return nil },
		"error":   func(context.Context) error { return failed },
		"panic":   func(context.Context) error { panic(failed) },
		"Goexit":  func(context.Context) error { runtime.Goexit(); return nil },
		"context": func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manager := newManager(t, enabled())
			h := hold(t, manager, "a", enhanced.HandleOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var err error
			var panicked any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { panicked = recover() }()
				err = h.Do(ctx, func(ctx context.Context) error {
					if name == "context" {
						cancel()
					}
					return work(ctx)
				})
			}()
			<-done
			requireFree(t, manager, "a")
			require.ErrorIs(t, h.Check(), enhanced.ErrLockNotFound)
			switch name {
			case "error":
				require.ErrorIs(t, err, failed)
			case "panic":
				require.Equal(t, failed, panicked)
			case "context":
				require.ErrorIs(t, err, context.Canceled)
			default:
				require.NoError(t, err)
			}
			called := false
			err = h.Do(t.Context(), func(context.Context) error { called = true; return nil })
			require.ErrorIs(t, err, enhanced.ErrLockNotFound)
			require.False(t, called, "nothing is done with a lock that was released")
		})
	}
}

func TestDoEndsItsWorkWhenTheLockIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		h := hold(t, &troubled{EnhancedLockManager: manager, refresh: func(context.Context, func() error) error {
			return errDown()
		}}, "a", enhanced.HandleOptions{})
		began := time.Now()
		err := h.Do(t.Context(), func(ctx context.Context) error {
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), enhanced.ErrLockLost)
			return nil
		})
		require.Equal(t, lease-margin, time.Since(began))
		require.ErrorIs(t, err, enhanced.ErrLockLost)
		requireFree(t, manager, "a") // the store had not given it away
	})
}
