package tests

import (
	"context"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// A call that waits for a lock holds no change up; it is told when the store does not
// decide any longer, and holds nothing.
func TestFallbackOffWhileACallWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	s.config.EnablePriorityQueue, s.config.MaxQueueSize = true, 10
	adapter := patientOn(t, s, s.legacy)
	bob := models.User{Username: "bob"}
	project := models.NewProject(fallbackRepo, "x", "")
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	answers := make(chan error)
	go func() {
		_, err := adapter.LockWithPriority(t.Context(), project, "default", bob, enhanced.PriorityHigh)
		answers <- err
	}()
	backendtest.Eventually(t, "it waits", func() bool {
		n, err := adapter.GetQueuePosition(t.Context(), project, "default")
		return err == nil && n > 0
	})
	off := *s.config
	off.Enabled = false
	require.NoError(t, adapter.UpdateConfiguration(&off))
	// Its turn comes in the store.
	_, err := s.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource("x"), Force: true, Actor: "user:ann"})
	require.NoError(t, err)
	require.ErrorContains(t, <-answers, "enabled: false")
	require.Empty(t, s.inStore(t, "x"))
	require.Equal(t, 5, s.inLegacy(t, "x"), "that one decides")
}

// slowManager is a manager whose callers are not told of their lock until it lets go.
type slowManager struct {
	*enhanced.EnhancedLockManager
	granted, letGo chan struct{}
}

func (m slowManager) LockWithPriority(ctx context.Context, project models.Project, workspace string, user models.User, priority enhanced.Priority) (*models.ProjectLock, error) {
	lock, err := m.EnhancedLockManager.LockWithPriority(ctx, project, workspace, user, priority)
	close(m.granted)
	<-m.letGo
	return lock, err
}

func (m slowManager) LockAll(ctx context.Context, requests []*enhanced.EnhancedLockRequest) ([]*enhanced.EnhancedLock, error) {
	locks, err := m.EnhancedLockManager.LockAll(ctx, requests)
	close(m.granted)
	<-m.letGo
	return locks, err
}

// What the store granted before it was switched off, and nobody was told of, it does not
// hold any more. The legacy database can have told the pull request that has it there.
func TestFallbackOffBeforeACallIsTold(t *testing.T) {
	t.Parallel()
	pull := lockOf(fallbackRepo, 5, "x")
	for name, test := range map[string]struct {
		take         func(context.Context, *enhanced.LockingAdapter) error
		before, then int // in the legacy database
	}{
		"user": {func(ctx context.Context, a *enhanced.LockingAdapter) error {
			_, err := a.LockWithPriority(ctx, pull.Project, pull.Workspace, models.User{Username: "bob"}, enhanced.PriorityHigh)
			return err
		}, -1, 0},
		"pull request": {func(ctx context.Context, a *enhanced.LockingAdapter) error {
			_, err := a.LockAll(ctx, []*enhanced.EnhancedLockRequest{{Resource: fallbackResource("x"), Pull: &pull.Pull}})
			return err
		}, 5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, redistest.Start(t, redistest.Options{}))
			backend := s.direct(t)
			manager := slowManager{enhanced.NewEnhancedLockManager(backend, s.config, nil), make(chan struct{}), make(chan struct{})}
			adapter := enhanced.NewLockingAdapter(manager, backend, s.config, s.legacy, nil)
			t.Cleanup(func() { require.NoError(t, adapter.Close()) })
			take(t, adapter, lockOf("org/warm", 1, "."))
			answers := make(chan error)
			go func() { answers <- test.take(t.Context(), adapter) }()
			<-manager.granted
			require.NoError(t, adapter.UpdateConfiguration(switched(false)))
			require.Equal(t, test.before, s.inLegacy(t, "x"))
			close(manager.letGo)
			require.ErrorContains(t, <-answers, "enabled: false")
			require.Empty(t, s.inStore(t, "x"))
			require.Equal(t, test.then, s.inLegacy(t, "x"))
		})
	}
}
