package enhanced_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// A rule on path "prod" also covers those who spell it "./prod".
func TestAuthorizerSeesTheResourceThatIsReleased(t *testing.T) {
	t.Parallel()
	var asked asked
	manager := newManager(t, nil, enhanced.WithAuthorizer(asked.authorize))
	_, err := manager.Lock(t.Context(), project("prod"), workspace, alice())
	require.NoError(t, err)
	asked.take(t)
	_, err = manager.Release(t.Context(), enhanced.ReleaseRequest{
		Resource: enhanced.ResourceIdentifier{Namespace: repo, Path: "x/../prod", Workspace: workspace}, Force: true, Actor: "user:bob",
	})
	require.NoError(t, err, "this releases prod")
	require.Equal(t, resource("prod"), asked.take(t).Resource)
}

// AuthorizationRequest.Actor: "who acts, in an owner's text form".
func TestAuthorizerKnowsTheActorOfUnlockIfOwnedByPull(t *testing.T) {
	t.Parallel()
	var asked asked
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled(), enhanced.WithAuthorizer(asked.authorize))
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)
	_, err := adapter.UnlockIfOwnedByPull(project("a"), workspace, 5)
	require.NoError(t, err)
	_, err = enhanced.ParseOwner(asked.take(t).Actor)
	require.NoError(t, err)
}

// A release that is invalid is refused as such, before anybody is asked.
func TestAuthorizerIsNotAskedAboutInvalidReleases(t *testing.T) {
	t.Parallel()
	var asked asked
	manager := newManager(t, nil, enhanced.WithAuthorizer(asked.authorize))
	_, err := manager.Release(t.Context(), enhanced.ReleaseRequest{Owner: "user:alice"})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.Empty(t, asked.requests)
}
