package backendtest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func testRelease(t *testing.T, newBackend NewBackend) {
	t.Run("by ID", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		requireFree(t, b, resource("."))
		_, err := b.GetLock(t.Context(), lock.ID)
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	})

	t.Run("an ID of the past never touches a later lock", func(t *testing.T) {
		b := newBackend(t, nil)
		past := acquire(t, b, pullRequest(5, "."))
		require.NoError(t, b.ReleaseLock(t.Context(), past.ID))
		now := acquire(t, b, pullRequest(5, "."))
		require.NotEqual(t, past.ID, now.ID)

		require.NoError(t, b.ReleaseLock(t.Context(), past.ID), "it is released, as asked")
		require.ErrorIs(t, b.RefreshLock(t.Context(), past.ID, time.Minute), enhanced.ErrLockNotFound)
		require.ErrorIs(t, b.TransferLock(t.Context(), past.ID, "user:eve"), enhanced.ErrLockNotFound)
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: past.ID, Force: true})
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		requireHeldBy(t, b, resource("."), now.Owner)
	})

	t.Run("IDs that cannot be", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		tag := enhanced.RepositoryTag(repo)
		for _, id := range []string{
			"", "-", tag, tag + "-", tag + "-0", tag + "--1", tag + "-007", tag + "-1e3",
			tag + "-18446744073709551616", lock.ID + "0", " " + lock.ID, lock.ID[1:],
			enhanced.FormatLockID("org/other", lock.Version),
		} {
			require.ErrorIs(t, b.ReleaseLock(t.Context(), id), enhanced.ErrLockNotFound, id)
			_, err := b.GetLock(t.Context(), id)
			require.ErrorIs(t, err, enhanced.ErrLockNotFound, id)
		}
		requireHeldBy(t, b, resource("."), lock.Owner)
	})

	t.Run("by owner", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		for _, foreign := range []string{
			"pr:github.com/org%2Fapp/55", "pr:gitlab.com/org%2Fapp/5", "pr:github.com/org%2Fapp-prod/5",
			"user:author", "user:runner", "pr:/org%2Fapp/5",
		} {
			_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Owner: foreign})
			require.ErrorIs(t, err, enhanced.ErrPermissionDenied, foreign)
			require.ErrorContains(t, err, enhanced.DescribeOwner(lock.Owner))
			require.ErrorContains(t, err, enhanced.DescribeOwner(foreign))
		}
		released, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Owner: lock.Owner})
		require.NoError(t, err)
		require.Equal(t, lock.ID, released.ID)
		require.Equal(t, enhanced.LockStateReleased, released.State)
		requireFree(t, b, resource("."))
	})

	t.Run("by pull number", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequest(5, "."))
		acquire(t, b, userRequest("5", "users"))
		five, other, zero := 5, 55, 0
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), PullNumber: &other})
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		for _, number := range []*int{&five, &zero} {
			_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("users"), PullNumber: number})
			require.ErrorIs(t, err, enhanced.ErrPermissionDenied, "a user's lock is nobody's pull request")
		}
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), PullNumber: &five})
		require.NoError(t, err)
	})

	t.Run("by force", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		released, err := b.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: resource("."), Force: true, Actor: "user:admin", Reason: "stuck",
		})
		require.NoError(t, err)
		require.Equal(t, lock.Owner, released.Owner)
		requireFree(t, b, resource("."))
	})

	t.Run("by ID and owner, both must hold", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Owner: "user:eve"})
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Resource: resource("other"), Owner: lock.Owner})
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Resource: resource("."), Owner: lock.Owner})
		require.NoError(t, err)
	})

	t.Run("a release that is repeated", func(t *testing.T) {
		b := newBackend(t, nil)
		past := acquire(t, b, pullRequest(5, "."))
		five, six := 5, 6
		for _, request := range []enhanced.ReleaseRequest{
			{LockID: past.ID, Owner: past.Owner},
			{LockID: past.ID, Owner: past.Owner},
			{LockID: past.ID, Owner: past.Owner, Resource: resource(".")},
			{LockID: past.ID, PullNumber: &five},
			{LockID: past.ID},
		} {
			released, err := b.Release(t.Context(), request)
			require.NoError(t, err)
			require.Equal(t, past.ID, released.ID)
			require.Equal(t, past.Owner, released.Owner)
			require.Equal(t, past.Resource, released.Resource)
			require.Equal(t, past.Version, released.Version)
			require.Equal(t, enhanced.LockStateReleased, released.State)
			acquire(t, b, userRequest("next", ".")) // which no repetition touches
			requireHeldBy(t, b, resource("."), "user:next")
			require.NoError(t, b.ReleaseLock(t.Context(), lockOn(t, b, ".").ID))
		}
		for name, request := range map[string]enhanced.ReleaseRequest{
			"another owner":        {LockID: past.ID, Owner: "user:eve"},
			"another number":       {LockID: past.ID, PullNumber: &six},
			"another resource":     {LockID: past.ID, Owner: past.Owner, Resource: resource("other")},
			"force, of nobody":     {LockID: past.ID, Force: true},
			"an ID that never was": {LockID: enhanced.FormatLockID(repo, past.Version+1), Owner: past.Owner},
		} {
			_, err := b.Release(t.Context(), request)
			require.ErrorIs(t, err, enhanced.ErrLockNotFound, name)
		}
		first, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: past.ID, Owner: past.Owner})
		require.NoError(t, err)
		require.True(t, first.AcquiredAt.IsZero(), "what tells a repetition from the release")
	})

	t.Run("a repeated release is no event", func(t *testing.T) {
		b := newBackend(t, nil)
		var released atomic.Int64
		config := enhanced.DefaultConfig()
		config.EnableEvents = true
		m := enhanced.NewEnhancedLockManager(b, config, nil)
		m.AddEventCallback(func(_ context.Context, event *enhanced.ManagerEvent) {
			if event.Type == enhanced.EventReleased {
				released.Add(1)
			}
		})
		lock := acquire(t, b, pullRequest(5, "."))
		for range 3 {
			_, err := m.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Owner: lock.Owner})
			require.NoError(t, err)
		}
		require.NoError(t, m.Stop(t.Context())) // delivers what is left
		require.EqualValues(t, 1, released.Load())
	})

	t.Run("nothing held, nothing named, no right", func(t *testing.T) {
		b := newBackend(t, nil)
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource("."), Force: true})
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		for _, request := range []enhanced.ReleaseRequest{
			{}, {Force: true}, {Resource: resource(".")}, {Resource: resource("."), Owner: "alice"},
		} {
			_, err := b.Release(t.Context(), request)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		}
	})
}

func testByPull(t *testing.T, newBackend NewBackend) {
	release := func(t *testing.T, b enhanced.Backend, repository string, number int) []string {
		t.Helper()
		locks, err := b.ReleaseByPull(t.Context(), repository, number, enhanced.SystemAtlantis)
		require.NoError(t, err)
		var paths []string
		for _, lock := range locks {
			require.Equal(t, enhanced.LockStateReleased, lock.State)
			paths = append(paths, lock.Resource.Path)
		}
		return paths
	}

	t.Run("names are never patterns", func(t *testing.T) {
		b := newBackend(t, nil)
		for _, name := range []string{"org/x[1]", "org/x1", "org/*", "org/a?b", "org/a\\*"} {
			acquire(t, b, pullRequestOf(host, name, 5, "."))
		}
		require.Len(t, release(t, b, "org/x[1]", 5), 1)
		require.Len(t, release(t, b, "org/*", 5), 1)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 3)
	})

	t.Run("several hosts are refused by name", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequest(5, "a"))
		acquire(t, b, pullRequestOf("gitlab.com", repo, 5, "b"))
		_, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "pull request 5 on github.com")
		require.ErrorContains(t, err, "pull request 5 on gitlab.com")
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 2)
	})

	t.Run("more than fit in one step", func(t *testing.T) {
		b := newBackend(t, nil)
		const many = 1203
		Together(16, func(worker int) {
			for i := worker; i < many; i += 16 {
				if _, err := b.AcquireLock(t.Context(), pullRequest(5, "p"+itoa(i))); err != nil {
					t.Error(err)
				}
			}
		})
		acquire(t, b, pullRequest(6, "other"))
		require.Len(t, release(t, b, repo, 5), many)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 1)
		// The mark that kept it from taking more is gone.
		acquire(t, b, pullRequest(5, "again"))
	})
}
