package backendtest

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/events/vcs/bitbucketcloud"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// testClient goes through what Atlantis itself puts before its database.
func testClient(t *testing.T, newBackend NewBackend) {
	user := models.User{Username: "runner"}

	t.Run("every listed key works", func(t *testing.T) {
		a, _ := newAdapter(t, newBackend, nil)
		client := locking.NewClient(a)
		taken := 0
		for i, name := range hostileNames() {
			for _, project := range []models.Project{
				models.NewProject(repo, name, ""), models.NewProject("group/sub/app", "d"+itoa(i), name), models.NewProject("org/"+name, "x", ""),
			} {
				response, err := client.TryLock(project, "default", pull(host, project.RepoFullName, i+1), user)
				require.NoError(t, err, "%q", name)
				if response.LockAcquired {
					taken++
				}
			}
		}
		locks, err := client.List()
		require.NoError(t, err)
		require.Len(t, locks, taken)
		for key, lock := range locks {
			if strings.Contains(key, "\n") {
				continue
			}
			found, err := client.GetLock(key)
			require.NoError(t, err, key)
			require.NotNil(t, found, key)
			require.Equal(t, lock, *found)
			unlocked, err := client.Unlock(key)
			require.NoError(t, err, key)
			require.NotNil(t, unlocked, key)
			require.Equal(t, lock, *unlocked)
		}
		locks, err = client.List()
		require.NoError(t, err)
		require.Empty(t, locks)
	})

	t.Run("the project locker", func(t *testing.T) {
		a, b := newAdapter(t, newBackend, nil)
		locker := &events.DefaultProjectLocker{
			Locker:         locking.NewClient(a),
			NoOpLocker:     locking.NewNoOpLocker(),
			VCSClient:      bitbucketcloud.New(http.DefaultClient, "", "", "", "https://atlantis.invalid"),
			ExecutableName: "atlantis",
		}
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

	t.Run("one winner in each round", func(t *testing.T) {
		a, _ := newAdapter(t, newBackend, nil)
		client := locking.NewClient(a)
		project := models.NewProject(repo, ".", "")
		for round := range Rounds(5_000) {
			var winners, winner atomic.Int32
			Together(8, func(i int) {
				response, err := client.TryLock(project, "default", pull(host, repo, i+1), user)
				if err != nil {
					t.Error(err)
				}
				if response.LockAcquired {
					winners.Add(1)
					winner.Store(int32(i + 1)) //nolint:gosec // small
				}
			})
			require.EqualValues(t, 1, winners.Load(), "round %d", round)
			released, err := client.UnlockByPull(repo, int(winner.Load()))
			require.NoError(t, err)
			require.Len(t, released, 1)
		}
	})
}
