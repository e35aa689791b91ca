package enhanced_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lease is that of the handles of these tests, which by default are lost a tenth
// of it before it ends.
const (
	lease  = 30 * time.Second
	margin = lease / 10
)

// errDown is what a store answers that has failed.
func errDown() error { return enhanced.NewBackendError("refresh", errors.New("connection refused")) }

// troubled is a manager between which and its callers a test can step.
type troubled struct {
	*enhanced.EnhancedLockManager
	refresh func(ctx context.Context, refresh func() error) error
	release func(ctx context.Context, release func() error) error
}

func (m *troubled) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	refresh := func() error { return m.EnhancedLockManager.RefreshLock(ctx, lockID, extension) }
	if m.refresh == nil {
		return refresh()
	}
	return m.refresh(ctx, refresh)
}

func (m *troubled) Release(ctx context.Context, request enhanced.ReleaseRequest) (lock *enhanced.EnhancedLock, err error) {
	release := func() error {
		lock, err = m.EnhancedLockManager.Release(ctx, request)
		return err
	}
	if m.release == nil {
		return lock, release()
	}
	return lock, m.release(ctx, release)
}

// handleRequest is alice's for a resource.
func handleRequest(path string) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{Resource: resource(path), User: alice(), Timeout: lease}
}

// hold returns alice's handle on a resource, which she releases with the test.
func hold(t *testing.T, leaser enhanced.Leaser, path string, options enhanced.HandleOptions) *enhanced.Handle {
	t.Helper()
	h, err := enhanced.AcquireHandle(t.Context(), leaser, handleRequest(path), options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.Release(context.Background()) }) //nolint:errcheck // the test may have lost it
	return h
}

// requireLost wants a handle to be lost, with a code and a text.
func requireLost(t *testing.T, h *enhanced.Handle, code error, says string) {
	t.Helper()
	for _, err := range []error{h.Check(), context.Cause(h.Context())} {
		require.ErrorIs(t, err, enhanced.ErrLockLost)
		require.ErrorIs(t, err, code)
		require.ErrorContains(t, err, "user alice lost its lock "+h.Lock().ID+" on org/app")
		require.ErrorContains(t, err, says)
	}
}

func requireHeldInStore(t *testing.T, manager *enhanced.EnhancedLockManager, h *enhanced.Handle) *enhanced.EnhancedLock {
	t.Helper()
	lock, err := manager.GetBackend().LookupLock(t.Context(), h.Lock().Resource)
	require.NoError(t, err)
	require.Equal(t, h.Lock().ID, lock.ID)
	return lock
}

func requireFree(t *testing.T, manager *enhanced.EnhancedLockManager, path string) {
	t.Helper()
	_, err := manager.GetBackend().LookupLock(t.Context(), resource(path))
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
}

func TestHandleIsHeldUntilReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		type key struct{}
		h, err := enhanced.AcquireHandle(context.WithValue(t.Context(), key{}, "kept"), manager, handleRequest("a"), enhanced.HandleOptions{})
		require.NoError(t, err)
		require.Equal(t, "kept", h.Context().Value(key{}))
		require.Equal(t, h.Lock().Version, h.Token())
		for range 600 {
			pass(time.Second)
			require.NoError(t, h.Check())
			expires := requireHeldInStore(t, manager, h).ExpiresAt
			require.Greater(t, time.Until(*expires), lease/2, "the lease falls behind")
		}
		require.NoError(t, h.Release(t.Context()))
		requireFree(t, manager, "a")
		require.ErrorIs(t, context.Cause(h.Context()), context.Canceled)
		require.NotErrorIs(t, context.Cause(h.Context()), enhanced.ErrLockLost)
		require.ErrorIs(t, h.Check(), enhanced.ErrLockNotFound)
		require.NotErrorIs(t, h.Check(), enhanced.ErrLockLost)
		require.NoError(t, h.Release(t.Context()), "once more")
	})
}

// Handles with leases of one length renew them at the same moments, whenever they
// were got, and none later than after a third of its lease.
func TestHandlesRenewTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const handles = 40
		manager := newManager(t, enabled())
		moments, last := make(map[time.Time]int), make([]time.Time, handles)
		var mu sync.Mutex
		for i := range handles {
			leaser := &troubled{EnhancedLockManager: manager, refresh: func(_ context.Context, refresh func() error) error {
				mu.Lock()
				moments[time.Now()]++
				assert.LessOrEqual(t, time.Since(last[i]), lease/3)
				last[i] = time.Now()
				mu.Unlock()
				return refresh()
			}}
			pass(lease / 3 / handles)
			last[i] = time.Now()
			hold(t, leaser, "p"+itoa(i), enhanced.HandleOptions{})
		}
		pass(lease)
		mu.Lock()
		defer mu.Unlock()
		renewals := 0
		for _, n := range moments {
			renewals += n
		}
		require.GreaterOrEqual(t, renewals, 3*handles)
		require.LessOrEqual(t, len(moments), 45, "moments of %d renewals", renewals) // 30 in a lease, and those while handles were got
	})
}

func TestHandleIsLostBeforeTheStoreGivesTheLockAway(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]time.Duration{"the default margin": 0, "a margin of its own": 12 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				manager := newManager(t, enabled())
				h := hold(t, &troubled{EnhancedLockManager: manager, refresh: func(context.Context, func() error) error {
					return errDown()
				}}, "a", enhanced.HandleOptions{Margin: m})
				if m == 0 {
					m = margin
				}
				got := time.Now()
				pass(lease - m - 1)
				synctest.Wait()
				require.NoError(t, h.Check())
				<-h.Done()
				require.Equal(t, lease-m, time.Since(got))
				requireLost(t, h, enhanced.ErrLockExpired, "its lease was not renewed in time: refresh: connection refused")
				requireHeldInStore(t, manager, h)
				pass(m - 1)
				_, err := manager.AcquireNow(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource("a"), User: bob()})
				require.ErrorIs(t, err, enhanced.ErrLockExists)
				pass(1)
				_, err = manager.AcquireNow(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource("a"), User: bob()})
				require.NoError(t, err)
				err = h.Release(t.Context())
				require.ErrorIs(t, err, enhanced.ErrLockLost)
				require.Equal(t, err, h.Release(t.Context()), "once more")
				_, err = manager.GetBackend().LookupLock(t.Context(), resource("a"))
				require.NoError(t, err, "the next owner's lock is untouched")
			})
		})
	}
}

// The holder is told at the time even by a store that never answers.
func TestHandleIsLostWhileARenewalHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		goOn := make(chan struct{})
		h := hold(t, &troubled{EnhancedLockManager: manager, refresh: func(_ context.Context, refresh func() error) error {
			<-goOn // it does not even honour its context
			return refresh()
		}}, "a", enhanced.HandleOptions{})
		got := time.Now()
		<-h.Done()
		require.Equal(t, lease-margin, time.Since(got))
		requireLost(t, h, enhanced.ErrLockExpired, "its lease was not renewed in time")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, h.Release(ctx), enhanced.ErrTimeout)
		close(goOn)
		<-time.After(time.Millisecond)
		requireLost(t, h, enhanced.ErrLockExpired, "its lease was not renewed in time")
	})
}

// A renewal counts from when it was sent, however long its answer takes.
func TestHandleCountsFromWhenARenewalWasSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		var sent time.Time
		h := hold(t, &troubled{EnhancedLockManager: manager, refresh: func(_ context.Context, refresh func() error) error {
			if !sent.IsZero() {
				return errDown()
			}
			sent = time.Now()
			err := refresh()
			pass(lease/6 - time.Second)
			return err
		}}, "a", enhanced.HandleOptions{})
		<-h.Done()
		require.Equal(t, lease-margin, time.Since(sent))
		requireHeldInStore(t, manager, h)
	})
}

// An answer that comes when the lease is over, as after a suspension, is too late,
// though no timer has fired.
func TestHandleIsNotBroughtBackByALateRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handles := make(chan *enhanced.Handle, 1)
		h := hold(t, &troubled{EnhancedLockManager: newManager(t, enabled()), refresh: func(_ context.Context, refresh func() error) error {
			(<-handles).SleepOver(lease)
			return refresh()
		}}, "a", enhanced.HandleOptions{})
		handles <- h
		<-h.Done()
		requireLost(t, h, enhanced.ErrLockExpired, "its lease was not renewed in time")
	})
}

func TestHandleSurvivesFailuresWithinItsLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		var down atomic.Pointer[time.Time] // until when
		down.Store(new(time.Time))
		var attempts atomic.Int64
		h := hold(t, &troubled{EnhancedLockManager: manager, refresh: func(_ context.Context, refresh func() error) error {
			attempts.Add(1)
			if time.Now().Before(*down.Load()) {
				return errDown()
			}
			return refresh()
		}}, "a", enhanced.HandleOptions{})
		for range 20 {
			renewed := attempts.Load()
			pass(lease / 4)
			for attempts.Load() == renewed { // until just after a renewal
				pass(time.Second)
			}
			until := time.Now().Add(lease / 2)
			down.Store(&until)
			pass(2 * lease)
			require.NoError(t, h.Check())
			requireHeldInStore(t, manager, h)
		}
		require.Greater(t, attempts.Load(), int64(20*7), "it tries again soon")
		require.Less(t, attempts.Load(), int64(20*40), "it does not flood the store")
	})
}

func TestHandleIsLostByAForcedUnlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		h := hold(t, manager, "a", enhanced.HandleOptions{})
		pass(lease * 10)
		_, err := manager.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: resource("a"), Force: true, Actor: "user:bob", Reason: "alice is on holiday",
		})
		require.NoError(t, err)
		next, err := manager.AcquireNow(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource("a"), User: bob()})
		require.NoError(t, err)
		forced := time.Now()
		<-h.Done()
		require.LessOrEqual(t, time.Since(forced), lease/3)
		requireLost(t, h, enhanced.ErrLockNotFound, h.Lock().ID)
		require.ErrorIs(t, h.Release(t.Context()), enhanced.ErrLockLost)
		pass(2 * lease)
		lock, err := manager.GetBackend().LookupLock(t.Context(), resource("a"))
		require.NoError(t, err)
		require.Equal(t, next.ID, lock.ID)
		require.Equal(t, next.ExpiresAt, lock.ExpiresAt, "no renewal touches the next owner's lock")
	})
}

// The handle's own release finds a lock that somebody else has released, before a
// renewal does: it has not held until now.
func TestHandleIsReleasedAfterAForcedUnlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		h := hold(t, manager, "a", enhanced.HandleOptions{})
		_, err := manager.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("a"), Force: true, Actor: "user:bob", Reason: "now"})
		require.NoError(t, err)
		require.ErrorIs(t, h.Release(t.Context()), enhanced.ErrLockLost)
	})
}

func TestHandleHasAMaximumHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		got := time.Now()
		h := hold(t, manager, "a", enhanced.HandleOptions{MaxHold: 100 * time.Second})
		<-h.Done()
		require.Equal(t, 100*time.Second, time.Since(got))
		requireLost(t, h, enhanced.ErrTimeout, "it was held for 1m40s, its maximum")
		requireHeldInStore(t, manager, h)
		pass(margin)
		requireFree(t, manager, "a") // though its holder is stuck
	})
}

// A machine that was suspended has a monotonic clock that did not run.
func TestHandleIsLostBySuspension(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hold(t, newManager(t, enabled()), "a", enhanced.HandleOptions{})
		h.SleepOver(lease / 2)
		require.NoError(t, h.Check())
		h.SleepOver(lease / 2)
		requireLost(t, h, enhanced.ErrLockExpired, "its lease was not renewed in time")
	})
}

// A lease counts from the grant, and who has waited does not know when that was.
func TestHandleOfAWaiterHasAWholeLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := enabled()
		config.EnablePriorityQueue = true
		config.QueueTimeout = 3 * time.Hour
		manager := newManager(t, config)
		blocking, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{Resource: resource("a"), User: bob(), Timeout: enhanced.NoTimeout})
		require.NoError(t, err)
		time.AfterFunc(2*time.Hour, func() { _ = manager.GetBackend().ReleaseLock(t.Context(), blocking.ID) }) //nolint:errcheck // the wait shows it
		h := hold(t, manager, "a", enhanced.HandleOptions{MaxHold: 4 * lease})
		require.NoError(t, h.Check())
		pass(2 * lease)
		require.NoError(t, h.Check(), "the wait does not count")
	})
}

// Nor does who asks again for what an earlier request got.
func TestHandleOfARepeatedRequestHasAWholeLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		manager := newManager(t, enabled())
		request := handleRequest("a")
		request.ID = "again"
		first, err := manager.Acquire(t.Context(), request)
		require.NoError(t, err)
		pass(lease - time.Millisecond)
		h, err := enhanced.AcquireHandle(t.Context(), manager, request, enhanced.HandleOptions{})
		require.NoError(t, err)
		require.Equal(t, first.ID, h.Lock().ID)
		pass(lease)
		require.NoError(t, h.Check())
		requireHeldInStore(t, manager, h)
		require.NoError(t, h.Release(t.Context()))
		_, err = enhanced.AcquireHandle(t.Context(), manager, request, enhanced.HandleOptions{})
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
	})
}

func TestHandleRefusesWhatDoesNotGoTogether(t *testing.T) {
	t.Parallel()
	manager := newManager(t, enabled())
	for says, try := range map[string]struct {
		lease   time.Duration
		options enhanced.HandleOptions
	}{
		"a handle needs a lease":                  {enhanced.NoTimeout, enhanced.HandleOptions{}},
		"timeout 1µs is not a lease":              {time.Microsecond, enhanced.HandleOptions{}},
		"timeout 9h0m0s is above max_timeout":     {9 * time.Hour, enhanced.HandleOptions{}},
		"margin -1s is not between 0 and 15s":     {lease, enhanced.HandleOptions{Margin: -time.Second}},
		"margin 16s is not between 0 and 15s":     {lease, enhanced.HandleOptions{Margin: 16 * time.Second}},
		"max hold 29s is below the lease, 30s":    {lease, enhanced.HandleOptions{MaxHold: 29 * time.Second}},
		"max hold 59s is below the lease, 1m0s":   {0, enhanced.HandleOptions{MaxHold: 59 * time.Second}},
		"margin 31s is not between 0 and 30s, ha": {0, enhanced.HandleOptions{Margin: 31 * time.Second}},
	} {
		_, err := enhanced.AcquireHandle(t.Context(), manager, &enhanced.EnhancedLockRequest{
			Resource: resource("a"), User: alice(), Timeout: try.lease,
		}, try.options)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, says)
	}
	_, err := enhanced.AcquireHandle(t.Context(), nil, handleRequest("a"), enhanced.HandleOptions{})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	_, err = enhanced.AcquireHandle(t.Context(), manager, nil, enhanced.HandleOptions{})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	requireFree(t, manager, "a")
}
