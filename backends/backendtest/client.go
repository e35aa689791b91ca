package backendtest

import (
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// testClient goes through what Atlantis itself puts before its database.
func testClient(t *testing.T, newBackend NewBackend) {
	user := models.User{Username: "runner"}

	t.Run("the project locker", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, nil)
		locker := newProjectLocker(locking.NewClient(a))
		log := logging.NewNoopLogger(t)
		project := models.NewProject(repo, ".", "")
		try := func(p models.PullRequest) (*events.TryLockResponse, error) {
			return locker.TryLock(log, p, user, "default", project, true)
		}

		first, err := try(pull(host, repo, 5))
		require.NoError(t, err)
		require.True(t, first.LockAcquired)
		again, err := try(pull(host, repo, 5))
		require.NoError(t, err)
		require.True(t, again.LockAcquired, "a pull request plans again under its own lock")
		refused, err := try(pull(host, repo, 55))
		require.NoError(t, err)
		require.False(t, refused.LockAcquired)
		require.Contains(t, refused.LockFailureReason, "#5")
		_, err = try(pull("gitlab.com", repo, 5))
		require.ErrorContains(t, err, "pull request 5 on github.com", "the same number of another host is not the holder")

		require.NoError(t, first.UnlockFn())
		next, err := try(pull(host, repo, 55))
		require.NoError(t, err)
		require.True(t, next.LockAcquired)
		require.NoError(t, first.UnlockFn(), "a late unlock")
		requireHeldBy(t, b, resource("."), "pr:github.com/org%2Fapp/55")

		require.NoError(t, next.UnlockFn())
		frozen := userRequest("alice", ".")
		frozen.Metadata = map[string]string{enhanced.MetadataNote: "database upgrade"}
		acquire(t, b, frozen)
		_, err = try(pull(host, repo, 5))
		require.ErrorContains(t, err, "database upgrade")
	})
}
