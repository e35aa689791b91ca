package backendtest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// toldEvents are the events that a manager's callbacks were told.
type toldEvents struct {
	manager *enhanced.EnhancedLockManager
	backend enhanced.Backend
	mu      sync.Mutex // protects events
	events  []string
}

// tellingManager is a manager with the queue and callbacks.
func tellingManager(t *testing.T, newBackend NewBackend, start bool) *toldEvents {
	t.Helper()
	config := queueConfig(func(c *enhanced.EnhancedConfig) { c.EnableEvents = true })
	told := &toldEvents{backend: newBackend(t, config)}
	told.manager = enhanced.NewEnhancedLockManager(told.backend, config, nil)
	told.manager.AddEventCallback(func(_ context.Context, e *enhanced.ManagerEvent) {
		told.mu.Lock()
		defer told.mu.Unlock()
		told.events = append(told.events, e.Type+" "+strings.TrimPrefix(e.Owner, "user:")+" "+e.Resource.Path)
	})
	if start {
		require.NoError(t, told.manager.Start(t.Context()))
	}
	t.Cleanup(func() { require.NoError(t, told.manager.Stop(context.WithoutCancel(t.Context()))) })
	return told
}

// of returns what was told of an owner.
func (told *toldEvents) of(owner string) (events []string) {
	told.mu.Lock()
	defer told.mu.Unlock()
	for _, event := range told.events {
		if strings.Contains(event, " "+owner+" ") {
			events = append(events, event)
		}
	}
	return events
}

// requireOf checks what was told of an owner, once the store's log has told all of
// it. An event of the call and those of the log have no order between them.
func (told *toldEvents) requireOf(t *testing.T, owner string, events ...string) {
	t.Helper()
	Eventually(t, "all is told of "+owner, func() bool { return len(told.of(owner)) >= len(events) })
	require.ElementsMatch(t, events, told.of(owner))
}

// flush returns when callbacks were told of all that is in the log of repo.
func (told *toldEvents) flush(t *testing.T) {
	t.Helper()
	lock := acquire(t, told.backend, userRequest("flusher", "flushed"))
	last := enqueue(t, told.backend, userRequest("last", "flushed"))
	Eventually(t, "the log was told", func() bool { return slices.Contains(told.of("last"), "queued last flushed") })
	last.cancel()
	<-last.done
	require.NoError(t, told.backend.ReleaseLock(t.Context(), lock.ID))
}

func lockOn(t *testing.T, b enhanced.Backend, path string) *enhanced.EnhancedLock {
	t.Helper()
	lock, err := b.LookupLock(t.Context(), resource(path))
	require.NoError(t, err)
	return lock
}

// lockInBackground has a manager take a lock for which it has to wait, and returns
// once it waits.
func (told *toldEvents) lockInBackground(t *testing.T, r *enhanced.EnhancedLockRequest) (answer <-chan error) {
	t.Helper()
	answers, before := make(chan error, 1), queueLength(t, told.backend)
	ctx := context.WithoutCancel(t.Context())
	go func() {
		_, err := told.manager.Acquire(ctx, r)
		answers <- err
	}()
	Eventually(t, "it waits", func() bool { return queueLength(t, told.backend) > before })
	return answers
}

// testTold is about what callbacks are told of grants.
func testTold(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("callbacks are told of each grant once", func(t *testing.T) {
		told := tellingManager(t, newBackend, true)
		holder, err := told.manager.Acquire(t.Context(), userRequest("holder", "."))
		require.NoError(t, err)
		answer := told.lockInBackground(t, userRequest("next", "."))
		claims := userRequest("claims", ".")
		claims.Detached = true
		_, acquired, err := told.manager.TryAcquire(t.Context(), claims)
		require.NoError(t, err)
		require.False(t, acquired)
		require.NoError(t, told.backend.ReleaseLock(t.Context(), holder.ID))
		require.NoError(t, <-answer)
		require.NoError(t, told.backend.ReleaseLock(t.Context(), lockOn(t, told.backend, ".").ID))
		_, acquired, err = told.manager.TryAcquire(t.Context(), claims)
		require.NoError(t, err)
		require.True(t, acquired)
		told.flush(t)
		told.requireOf(t, "holder", "acquired holder .")
		told.requireOf(t, "next", "queued next .", "granted next .")
		told.requireOf(t, "claims", "queued claims .", "refused claims .", "granted claims .", "claimed claims .")
	})

	t.Run("a manager that is not started tells of its own calls", func(t *testing.T) {
		told := tellingManager(t, newBackend, false)
		holder, err := told.manager.Acquire(t.Context(), userRequest("holder", "."))
		require.NoError(t, err)
		answer := told.lockInBackground(t, userRequest("next", "."))
		claims := userRequest("claims", ".")
		claims.Detached = true
		_, _, err = told.manager.TryAcquire(t.Context(), claims)
		require.NoError(t, err)
		require.NoError(t, told.backend.ReleaseLock(t.Context(), holder.ID))
		require.NoError(t, <-answer)
		require.NoError(t, told.backend.ReleaseLock(t.Context(), lockOn(t, told.backend, ".").ID))
		_, err = told.manager.Acquire(t.Context(), claims) // one that could wait claims, too
		require.NoError(t, err)
		told.requireOf(t, "holder", "acquired holder .")
		told.requireOf(t, "next", "granted next .")
		told.requireOf(t, "claims", "refused claims .", "claimed claims .")
	})
}

// testSetsTold is testTold for sets.
func testSetsTold(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("callbacks are told of each grant of a set once", func(t *testing.T) {
		told := tellingManager(t, newBackend, true)
		holder, err := told.manager.Acquire(t.Context(), userRequest("holder", "b"))
		require.NoError(t, err)
		answer := make(chan error, 1)
		ctx := context.WithoutCancel(t.Context())
		go func() {
			_, err := told.manager.LockAll(ctx, setOf(ofUser("next"), "a", "b"))
			answer <- err
		}()
		Eventually(t, "it waits", func() bool { return queueLength(t, told.backend) == 2 })
		require.NoError(t, told.backend.ReleaseLock(t.Context(), holder.ID))
		require.NoError(t, <-answer)
		_, err = told.manager.LockAll(t.Context(), setOf(ofUser("first"), "c", "d"))
		require.NoError(t, err)
		told.flush(t)
		told.requireOf(t, "next", "queued next a", "queued next b", "granted next a", "granted next b")
		told.requireOf(t, "first", "acquired first c", "acquired first d")
	})

	// lockAll and replace take what an owner was given, and one more.
	lockAll := func(m *enhanced.EnhancedLockManager, set []*enhanced.EnhancedLockRequest) error {
		_, err := m.LockAll(context.WithoutCancel(t.Context()), set)
		return err
	}
	replace := func(m *enhanced.EnhancedLockManager, set []*enhanced.EnhancedLockRequest) error {
		_, err := m.ReplaceLocks(context.WithoutCancel(t.Context()), set[0].Owner(), set)
		return err
	}
	for name, take := range map[string]func(*enhanced.EnhancedLockManager, []*enhanced.EnhancedLockRequest) error{"LockAll": lockAll, "ReplaceLocks": replace} {
		t.Run("callbacks are told what "+name+" claims", func(t *testing.T) {
			for started, before := range map[bool][]string{false: nil, true: {"queued claims a", "granted claims a"}} {
				told := tellingManager(t, newBackend, started)
				holder := acquire(t, told.backend, userRequest("holder", "a"))
				claims := userRequest("claims", "a")
				claims.Detached = true
				_, _, err := told.backend.TryAcquireLock(t.Context(), claims)
				require.NoError(t, err)
				require.NoError(t, told.backend.ReleaseLock(t.Context(), holder.ID))
				require.NoError(t, take(told.manager, setOf(ofUser("claims"), "a", "b")))
				if started {
					told.flush(t)
				}
				told.requireOf(t, "claims", append(before, "claimed claims a", "acquired claims b")...)
			}
		})
	}
}
