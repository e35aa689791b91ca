package backendtest

import (
	"errors"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

func testAcquire(t *testing.T, newBackend NewBackend) {
	t.Run("a granted lock says everything", func(t *testing.T) {
		b := newBackend(t, nil)
		request := pullRequest(5, "envs/prod")
		request.Metadata = map[string]string{"note": "hello"}
		request.RequestedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		lock := acquire(t, b, request)

		require.Equal(t, resource("envs/prod"), lock.Resource)
		require.Equal(t, enhanced.LockStateAcquired, lock.State)
		require.Equal(t, enhanced.PriorityNormal, lock.Priority)
		require.Equal(t, "pr:github.com/org%2Fapp/5", lock.Owner)
		require.Nil(t, lock.ExpiresAt)
		require.Equal(t, "hello", lock.Metadata["note"])
		require.WithinDuration(t, time.Now(), lock.AcquiredAt, time.Minute)
		require.Positive(t, lock.Version)
		require.Equal(t, enhanced.FormatLockID(repo, lock.Version), lock.ID)

		original := lock.OriginalLock
		require.Equal(t, models.NewProject(repo, "envs/prod", ""), original.Project)
		require.Equal(t, "default", original.Workspace)
		require.True(t, original.Time.Equal(request.RequestedAt))
		want := *request.Pull
		want.BaseRepo.CloneURL = ""
		require.Equal(t, want, original.Pull)
	})

	t.Run("a held lock is refused with its holder", func(t *testing.T) {
		b := newBackend(t, nil)
		first := acquire(t, b, pullRequest(5, "."))
		_, err := b.AcquireLock(t.Context(), pullRequest(55, "."))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		var refusal *enhanced.LockError
		require.True(t, errors.As(err, &refusal))
		require.Equal(t, first.ID, refusal.Holder.ID)
		require.Contains(t, err.Error(), enhanced.DescribeOwner(first.Owner))
		require.Contains(t, err.Error(), repo)

		holder, acquired, err := b.TryAcquireLock(t.Context(), pullRequest(55, "."))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, first, holder)
	})

	t.Run("the holder itself is refused at once", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequest(5, "."))
		_, err := b.AcquireLock(t.Context(), pullRequest(5, "."))
		require.ErrorIs(t, err, enhanced.ErrLockExists)
	})

	t.Run("the same request again gets the lock that it has", func(t *testing.T) {
		b := newBackend(t, nil)
		request := pullRequest(5, ".")
		request.ID = "request-1"
		first := acquire(t, b, request)
		again := acquire(t, b, request)
		require.Equal(t, first, again)
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, stats.ActiveLocks)
	})

	t.Run("what differs in any part is another resource", func(t *testing.T) {
		b := newBackend(t, nil)
		base := resource(".")
		variants := []func(*enhanced.ResourceIdentifier){
			func(*enhanced.ResourceIdentifier) {},
			func(r *enhanced.ResourceIdentifier) { r.Path = "other" },
			func(r *enhanced.ResourceIdentifier) { r.Workspace = "other" },
			func(r *enhanced.ResourceIdentifier) { r.Name = "other" },
			func(r *enhanced.ResourceIdentifier) { r.Namespace = "org/app-prod" },
			func(r *enhanced.ResourceIdentifier) { r.Namespace = "org/App" },
			func(r *enhanced.ResourceIdentifier) { r.Type = enhanced.ResourceTypeWorkspace },
			func(r *enhanced.ResourceIdentifier) { r.Type = enhanced.ResourceTypeGlobal },
			func(r *enhanced.ResourceIdentifier) { r.Type = enhanced.ResourceTypeCustom },
		}
		for i, vary := range variants {
			r := base
			vary(&r)
			acquire(t, b, &enhanced.EnhancedLockRequest{
				Resource: r, User: models.User{Username: "user"}, Timeout: enhanced.NoTimeout,
			})
			locks, err := b.ListLocks(t.Context())
			require.NoError(t, err)
			require.Len(t, locks, i+1)
		}
	})

	t.Run("one path in several spellings is one resource", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequest(1, "a"))
		for _, spelling := range []string{"a", "./a", "a/", "a//", "a/b/.."} {
			request := pullRequest(2, ".")
			request.Project.Path = spelling
			_, err := b.AcquireLock(t.Context(), request)
			require.ErrorIs(t, err, enhanced.ErrLockExists, spelling)
		}
	})

	t.Run("tokens increase in a repository", func(t *testing.T) {
		b := newBackend(t, nil)
		var last int64
		for range 20 {
			lock := acquire(t, b, pullRequest(5, "."))
			require.Greater(t, lock.Version, last)
			last = lock.Version
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		}
	})

	t.Run("bad requests are refused by field", func(t *testing.T) {
		b := newBackend(t, nil)
		for name, test := range map[string]struct {
			spoil func(*enhanced.EnhancedLockRequest)
			want  string
		}{
			"no owner":       {func(r *enhanced.EnhancedLockRequest) { r.Pull, r.User = nil, models.User{} }, "owner"},
			"priority":       {func(r *enhanced.EnhancedLockRequest) { r.Priority = 4 }, "priority 4"},
			"low priority":   {func(r *enhanced.EnhancedLockRequest) { r.Priority = -1 }, "priority -1"},
			"negative lease": {func(r *enhanced.EnhancedLockRequest) { r.Timeout = -time.Second }, "timeout -1s"},
			"long lease":     {func(r *enhanced.EnhancedLockRequest) { r.Timeout = 3 * time.Hour }, "max_timeout 2h"},
			"type":           {func(r *enhanced.EnhancedLockRequest) { r.Resource = resource("."); r.Resource.Type = "x" }, "type \"x\""},
			"contradiction":  {func(r *enhanced.EnhancedLockRequest) { r.Resource = resource("elsewhere") }, "elsewhere"},
			"metadata": {func(r *enhanced.EnhancedLockRequest) {
				r.Metadata = map[string]string{"k": string(make([]byte, 5000))}
			}, "metadata"},
		} {
			request := pullRequest(1, ".")
			test.spoil(request)
			_, err := b.AcquireLock(t.Context(), request)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
			require.ErrorContains(t, err, test.want, name)
		}
		_, err := b.AcquireLock(t.Context(), nil)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Empty(t, locks)
	})

	t.Run("a request is not changed", func(t *testing.T) {
		b := newBackend(t, nil)
		request, same := pullRequest(1, "."), pullRequest(1, ".")
		acquire(t, b, request)
		require.Equal(t, same, request)
	})

	t.Run("statistics count what was decided", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(1, "."))
		_, _, err := b.TryAcquireLock(t.Context(), pullRequest(2, "."))
		require.NoError(t, err)
		acquire(t, b, pullRequest(1, "a"))
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		stats, err := b.GetStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, stats.ActiveLocks)
		require.EqualValues(t, 3, stats.TotalRequests)
		require.EqualValues(t, 2, stats.SuccessfulAcquires)
		require.EqualValues(t, 1, stats.Refused)
		require.EqualValues(t, 1, stats.Releases)
		require.Positive(t, stats.AverageWaitTime)
		require.Positive(t, stats.AverageHoldTime)
		require.Equal(t, 100, stats.HealthScore)
	})
}
