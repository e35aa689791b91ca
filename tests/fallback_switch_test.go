package tests

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// heldUp is a backend that does something before it looks up what a key of stock's has,
// or before it grants or releases.
type heldUp struct {
	*backends.RedisBackend
	look, grant, release atomic.Pointer[func(context.Context) error]
}

func before(ctx context.Context, hook *atomic.Pointer[func(context.Context) error]) error {
	if f := hook.Load(); f != nil {
		return (*f)(ctx)
	}
	return nil
}

func (b *heldUp) LocksByLegacyKey(ctx context.Context, key string) ([]*enhanced.EnhancedLock, error) {
	if err := before(ctx, &b.look); err != nil {
		return nil, err
	}
	return b.RedisBackend.LocksByLegacyKey(ctx, key)
}

func (b *heldUp) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	if err := before(ctx, &b.grant); err != nil {
		return nil, false, err
	}
	return b.RedisBackend.TryAcquireLock(ctx, request)
}

func (b *heldUp) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	if err := before(ctx, &b.release); err != nil {
		return nil, err
	}
	return b.RedisBackend.Release(ctx, request)
}

func (s *site) heldUp(t *testing.T) *heldUp {
	t.Helper()
	return &heldUp{RedisBackend: s.direct(t)}
}

// freeElsewhere frees a lock in the store behind the adapter's back.
func (s *site) freeElsewhere(t *testing.T, path string) {
	t.Helper()
	_, err := s.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource(path), Force: true, Actor: "user:ann"})
	require.NoError(t, err)
}

// give has the adapter release the lock of a pull request.
func give(t *testing.T, adapter *enhanced.LockingAdapter, number int, path string) {
	t.Helper()
	released, err := adapter.UnlockIfOwnedByPull(models.NewProject(fallbackRepo, path, ""), "default", number)
	require.NoError(t, err)
	require.NotNil(t, released)
}

// A store that does not answer has not decided that a lock is no lock.
func TestFallbackForgetsNothingWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	backend := s.heldUp(t)
	adapter := s.startOn(t, backend, s.legacy)
	take(t, s.legacy, lockOf(fallbackRepo, 5, "x"))
	fail := func(context.Context) error { return enhanced.NewBackendError("acquire", errors.New("no answer")) }
	backend.grant.Store(&fail)
	_, _, err := adapter.TryLock(lockOf("org/else", 1, "."))
	require.ErrorIs(t, err, enhanced.ErrBackend)
	backend.grant.Store(nil)
	refused(t, adapter, lockOf(fallbackRepo, 6, "x"), 5)
}

// A call that was under way can open the fallback: then it isn't ended.
func TestFallbackIsNotEndedByACallThatUsesIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	legacy := slowLegacy{legacyFile(t), "slow", make(chan struct{}, 1), make(chan struct{})}
	s.legacy = legacy
	adapter := s.ready(t)
	granted, updated := make(chan bool), make(chan error)
	go func() {
		acquired, _, err := adapter.TryLock(lockOf(fallbackRepo, 5, "slow"))
		granted <- acquired && err == nil
	}()
	<-legacy.asked
	alone := switched(true)
	alone.LegacyFallback = false
	go func() { updated <- adapter.UpdateConfiguration(alone) }()
	requireCallsWait(t, adapter)
	s.cut()
	close(legacy.letGo)
	require.True(t, <-granted)
	require.ErrorIs(t, <-updated, enhanced.ErrInvalidRequest)
	s.heal(t, adapter)
	require.Equal(t, pullText(5), s.inStore(t, "slow"))
}

// What a set has freed in the store isn't freed again in a legacy database that decides
// meanwhile.
func TestFallbackOffWhileASetIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	backend := s.heldUp(t)
	adapter := s.startOn(t, backend, s.legacy)
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	asked, letGo := make(chan struct{}, 1), make(chan struct{})
	wait := func(ctx context.Context) error {
		select {
		case asked <- struct{}{}:
			<-letGo
		default:
		}
		return nil
	}
	backend.look.Store(&wait)
	replaced, updated := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := adapter.ReplaceLocks(t.Context(), enhanced.PullOwner("github.com", fallbackRepo, 5), nil)
		replaced <- err
	}()
	backendtest.Eventually(t, "the store has freed it", func() bool { return s.inStore(t, "x") == "" && len(asked) == 1 })
	go func() { updated <- adapter.UpdateConfiguration(switched(false)) }()
	granted := make(chan struct{})
	go func() {
		defer close(granted)
		backendtest.Eventually(t, "it decides", func() bool { return !adapter.IsEnhancedModeEnabled() })
		take(t, adapter, lockOf(fallbackRepo, 6, "x"))
	}()
	select {
	case <-granted:
	case <-time.After(20 * poll): // it waits
	}
	close(letGo)
	require.NoError(t, <-updated)
	require.NoError(t, <-replaced)
	<-granted
	require.Equal(t, 6, s.inLegacy(t, "x"))
}

// What others took before the legacy database was alone, and it was not told of, was not
// released there.
func TestFallbackOffKeepsWhatNobodyToldOf(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := patientOn(t, s, s.legacy)
	take(t, adapter, lockOf("org/warm", 1, "."))
	require.NoError(t, adapter.Close())
	s.takeElsewhere(t, 7, "down", enhanced.NoTimeout)
	s.config = switched(false)
	adapter = s.start(t, s.legacy)
	take(t, adapter, lockOf("org/else", 1, "x"))
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	refused(t, adapter, lockOf(fallbackRepo, 8, "down"), 7)

	s.cut()
	take(t, adapter, lockOf("org/else", 1, "."))
	s.takeElsewhere(t, 7, "outage", enhanced.NoTimeout)
	require.NoError(t, adapter.UpdateConfiguration(switched(false)))
	take(t, adapter, lockOf("org/else", 1, "y"))
	s.proxy.Heal()
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	backendtest.Eventually(t, "the store decides", func() bool {
		_, _, err := adapter.TryLock(lockOf("org/else", 1, "z"))
		return err == nil
	})
	refused(t, adapter, lockOf(fallbackRepo, 8, "outage"), 7)
}

// Without the fallback the store would not learn what the legacy database granted alone.
func TestFallbackOffAndOnWithoutIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := patientOn(t, s, s.legacy)
	take(t, adapter, lockOf("org/warm", 1, "."))
	require.NoError(t, adapter.UpdateConfiguration(switched(false)))
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	alone := switched(true)
	alone.LegacyFallback = false
	require.ErrorIs(t, adapter.UpdateConfiguration(alone), enhanced.ErrInvalidRequest)
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	refused(t, adapter, lockOf(fallbackRepo, 6, "x"), 5)
	require.NoError(t, adapter.UpdateConfiguration(alone))
	refused(t, adapter, lockOf(fallbackRepo, 6, "x"), 5)
}

// What the legacy database granted while it was alone hasn't ended because an earlier
// lock of the same owner has, in the store, later.
func TestFallbackOffAndEndsInTheStore(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := patientOn(t, s, s.legacy)
	for _, path := range []string{"free", "taken"} {
		take(t, adapter, lockOf(fallbackRepo, 5, path))
	}
	require.NoError(t, adapter.UpdateConfiguration(switched(false)))
	for _, path := range []string{"free", "taken"} {
		give(t, adapter, 5, path)
		take(t, adapter, lockOf(fallbackRepo, 5, path))
		s.freeElsewhere(t, path)
	}
	s.takeElsewhere(t, 7, "taken", enhanced.NoTimeout)
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	refused(t, adapter, lockOf(fallbackRepo, 6, "free"), 5)
	require.Contains(t, s.inStore(t, "taken"), "frozen", "both were told that they hold it")
}

// Whoever is told of a lock late holds others up for a bounded time only.
func TestFallbackHoldsNobodyUpForLong(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	s.config.OperationTimeout = 300 * time.Millisecond
	backend := s.heldUp(t)
	adapter := s.startOn(t, backend, s.legacy)
	take(t, adapter, lockOf("org/warm", 1, "."))
	asked := make(chan struct{}, 100)
	wait := func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	backend.look.Store(&wait)
	told := make(chan error, 1)
	go func() {
		_, err := adapter.LockWithPriority(t.Context(), models.NewProject(fallbackRepo, "x", ""), "default", models.User{Username: "bob"}, enhanced.PriorityHigh)
		told <- err
	}()
	<-asked
	select {
	case err := <-told:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("the caller is not told")
	}
}

// closing is a manager that has something done while it stops.
type closing struct {
	*enhanced.EnhancedLockManager
	during func()
}

func (m closing) Stop(ctx context.Context) error {
	m.during()
	return m.EnhancedLockManager.Stop(ctx)
}

// A call beside Close does not undo what was noted of the legacy database.
func TestFallbackClosedUnderACall(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	backend := s.direct(t)
	manager := closing{enhanced.NewEnhancedLockManager(backend, s.config, nil), func() {}}
	var adapter *enhanced.LockingAdapter
	manager.during = func() { refused(t, adapter, lockOf(fallbackRepo, 6, "x"), 5) }
	adapter = enhanced.NewLockingAdapter(&manager, backend, s.config, s.legacy, nil)
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	require.NoError(t, adapter.Close())

	s.config = switched(false)
	adapter = patientOn(t, s, s.legacy)
	give(t, adapter, 5, "x")
	require.NoError(t, adapter.UpdateConfiguration(switched(true)))
	take(t, adapter, lockOf(fallbackRepo, 6, "x"))
}
