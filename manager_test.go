package enhanced_test

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

func TestManagerLocksAndUnlocks(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	before := time.Now()
	lock, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.Equal(t, project("a"), lock.Project)
	require.Equal(t, workspace, lock.Workspace)
	require.Equal(t, alice(), lock.User)
	require.Zero(t, lock.Pull)
	require.WithinRange(t, lock.Time, before.Truncate(time.Microsecond), time.Now())

	held, err := manager.GetBackend().LookupLock(t.Context(), resource("a"))
	require.NoError(t, err)
	require.Equal(t, enhanced.PriorityNormal, held.Priority)
	require.Equal(t, "user:alice", held.Owner)
	require.Equal(t, 30*time.Minute, held.ExpiresAt.Sub(held.AcquiredAt), "the default lease")

	released, err := manager.Unlock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	require.Equal(t, lock.Project, released.Project)
	_, err = manager.Unlock(t.Context(), project("a"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
}

func TestManagerRefusesAHeldLock(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	_, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{
		Resource: resource("a"), User: alice(), Timeout: enhanced.NoTimeout,
		Metadata: map[string]string{enhanced.MetadataNote: "incident 42"},
	})
	require.NoError(t, err)
	for _, user := range []models.User{bob(), alice()} {
		_, err = manager.Lock(t.Context(), project("a"), workspace, user)
		require.ErrorIs(t, err, enhanced.ErrLockExists, "the owner's own second call included")
		require.ErrorContains(t, err, "user alice")
		require.ErrorContains(t, err, "incident 42")
		var refusal *enhanced.LockError
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, "user:alice", refusal.Holder.Owner)
		require.Equal(t, resource("a"), refusal.Resource)
	}
	_, err = manager.Lock(t.Context(), project("a"), "staging", bob())
	require.NoError(t, err, "another workspace")
	_, err = manager.Lock(t.Context(), models.NewProject("org/app-prod", "a", ""), workspace, bob())
	require.NoError(t, err, "another repository")
}

func TestManagerUnlockChecksTheOwner(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	_, err = manager.Acquire(t.Context(), pullRequest(5, "b")) // its user is alice
	require.NoError(t, err)

	_, err = manager.Unlock(t.Context(), project("a"), workspace, bob())
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	require.ErrorContains(t, err, "user alice")
	require.ErrorContains(t, err, "user bob")
	_, err = manager.Unlock(t.Context(), project("b"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied, "a pull request of the same person is another owner")
	_, err = manager.Unlock(t.Context(), project("a"), workspace, models.User{})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "user is empty")
	_, err = manager.Unlock(t.Context(), project("c"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)

	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 2)
}

func TestManagerPriorities(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	_, err := manager.LockWithPriority(t.Context(), project("a"), workspace, alice(), enhanced.PriorityCritical)
	require.NoError(t, err)
	held, err := manager.GetBackend().LookupLock(t.Context(), resource("a"))
	require.NoError(t, err)
	require.Equal(t, enhanced.PriorityCritical, held.Priority)
	for _, priority := range []enhanced.Priority{-1, 4} {
		_, err = manager.LockWithPriority(t.Context(), project("b"), workspace, alice(), priority)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	}
}

func TestManagerLeases(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	_, err := manager.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Hour)
	require.NoError(t, err)
	held, err := manager.GetBackend().LookupLock(t.Context(), resource("a"))
	require.NoError(t, err)
	require.Equal(t, time.Hour, held.ExpiresAt.Sub(held.AcquiredAt))

	_, err = manager.LockWithTimeout(t.Context(), project("b"), workspace, alice(), enhanced.NoTimeout)
	require.NoError(t, err)
	held, err = manager.GetBackend().LookupLock(t.Context(), resource("b"))
	require.NoError(t, err)
	require.Nil(t, held.ExpiresAt)

	for _, lease := range []time.Duration{0, time.Microsecond, -time.Second, 2*time.Hour + 1} {
		_, err = manager.LockWithTimeout(t.Context(), project("c"), workspace, alice(), lease)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, lease)
		require.ErrorContains(t, err, lease.String())
	}
}

func TestManagerListIsOrdered(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
	for _, name := range []string{"org/b", "org/a"} {
		for _, path := range []string{"y", "x"} {
			_, err := manager.Lock(t.Context(), models.NewProject(name, path, ""), workspace, alice())
			require.NoError(t, err)
		}
	}
	locks, err = manager.List(t.Context())
	require.NoError(t, err)
	var got []string
	for _, lock := range locks {
		got = append(got, lock.Project.RepoFullName+" "+lock.Project.Path)
	}
	require.Equal(t, []string{"org/a x", "org/a y", "org/b x", "org/b y"}, got)
}

func TestManagerTryAcquire(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	lock, acquired, err := manager.TryAcquire(t.Context(), pullRequest(5, "a"))
	require.NoError(t, err)
	require.True(t, acquired)
	holder, acquired, err := manager.TryAcquire(t.Context(), pullRequest(6, "a"))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, lock.ID, holder.ID)
}

func TestManagerReleases(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	for _, path := range []string{"a", "b", "c"} {
		_, err := manager.Acquire(t.Context(), pullRequest(5, path))
		require.NoError(t, err)
	}
	_, err := manager.Acquire(t.Context(), pullRequest(55, "d"))
	require.NoError(t, err)

	_, err = manager.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("a"), Owner: "user:bob"})
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	forced, err := manager.Release(t.Context(), enhanced.ReleaseRequest{
		Resource: resource("a"), Force: true, Actor: "user:bob", Reason: "stuck",
	})
	require.NoError(t, err)
	require.Equal(t, enhanced.LockStateReleased, forced.State)
	released, err := manager.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.Len(t, released, 2)
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1)
	require.Equal(t, 55, locks[0].Pull.Num)
}

func TestManagerQueueIsEmptyWhileNothingWaits(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	for name, ctx := range map[string]func() (int, error){
		"without owner": func() (int, error) { return manager.GetQueuePosition(t.Context(), project("a"), workspace) },
		"with owner": func() (int, error) {
			return manager.GetQueuePosition(enhanced.ContextWithOwner(t.Context(), enhanced.UserOwner("bob")), project("a"), workspace)
		},
	} {
		position, err := ctx()
		require.NoError(t, err, name)
		require.Zero(t, position, name)
	}
	_, err = manager.GetQueuePosition(t.Context(), models.Project{RepoFullName: "a\x00"}, workspace)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)

	err = manager.CancelQueuedRequest(t.Context(), project("a"), workspace, bob())
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	require.ErrorContains(t, err, "user bob")
	require.ErrorContains(t, err, resource("a").String())
}

func TestOwnerInContext(t *testing.T) {
	t.Parallel()
	_, named := enhanced.OwnerFromContext(t.Context())
	require.False(t, named)
	owner, named := enhanced.OwnerFromContext(enhanced.ContextWithOwner(t.Context(), enhanced.PullOwner(host, repo, 5)))
	require.True(t, named)
	require.Equal(t, enhanced.PullOwner(host, repo, 5), owner)
}
