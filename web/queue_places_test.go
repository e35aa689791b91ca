package web_test

import (
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Who waits is told for what: a lock, a reservation, a grant that is not claimed.
func TestPositionSaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	backend, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	server := newTestServer(t, web.NewHandler(enhanced.NewEnhancedLockManager(backend, config, nil), web.Options{LoopbackOnly: true}))
	c, err := client.New(server.URL)
	require.NoError(t, err)

	resource := api.Resource{Repository: "acme/infra", Path: ".", Workspace: "default"}
	position := func(number int) api.Position {
		position, err := c.Position(t.Context(), resource, api.Owner{Pull: number, Host: "github.com"})
		require.NoError(t, err)
		return position
	}
	try := func(number int) *enhanced.EnhancedLock {
		repo := models.Repo{FullName: "acme/infra", Owner: "acme", Name: "infra", VCSHost: models.VCSHost{Hostname: "github.com"}}
		lock, _, err := backend.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: models.NewProject("acme/infra", ".", ""), Workspace: "default", Timeout: enhanced.NoTimeout, Detached: true,
			User: models.User{Username: "runner"}, Pull: &models.PullRequest{Num: number, BaseRepo: repo},
			Metadata: map[string]string{enhanced.MetadataNote: "the database"},
		})
		require.NoError(t, err)
		return lock
	}
	require.Equal(t, api.Position{OwnerID: "pr:github.com/acme%2Finfra/6"}, position(6))
	lock := try(5)
	try(6)
	try(7)
	pullFive := api.Blocker{Kind: "lock", Owner: api.Owner{Pull: 5, Host: "github.com"}, OwnerID: "pr:github.com/acme%2Finfra/5", Note: "the database"}
	require.Equal(t, api.Position{OwnerID: "pr:github.com/acme%2Finfra/7", Place: 2, Length: 2, Blocker: &pullFive}, position(7))

	_, err = backend.Release(t.Context(), enhanced.ReleaseRequest{LockID: lock.ID, Reserve: true, Actor: lock.Owner})
	require.NoError(t, err)
	kept := position(7).Blocker
	require.Equal(t, "reservation", kept.Kind)
	require.Equal(t, pullFive.Owner, kept.Owner)
	require.NotNil(t, kept.Until)

	_, err = backend.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true, Actor: "user:admin"})
	require.NoError(t, err)
	claim, err := backend.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	next := position(7)
	require.Equal(t, 1, next.Place)
	require.Equal(t, "claim", next.Blocker.Kind)
	require.Equal(t, 6, next.Blocker.Owner.Pull)
	require.True(t, claim.ExpiresAt.Equal(*next.Blocker.Until))
}
