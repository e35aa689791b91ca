package backendtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// testForesee holds what a manager foresees against what then happens.
func testForesee(t *testing.T, newBackend NewBackend) {
	for name, preserve := range map[string]bool{"with stock's format": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // for a test
			config := enhanced.DefaultConfig()
			config.PreserveLegacyFormat = preserve
			b := newBackend(t, config)
			denied := enhanced.WithAuthorizer(func(_ context.Context, r enhanced.AuthorizationRequest) error {
				if r.Actor == "user:eve" {
					return errors.New("never")
				}
				return nil
			})
			manager := enhanced.NewEnhancedLockManager(b, config, nil, denied)
			for range Rounds(400) {
				var requests []*enhanced.EnhancedLockRequest
				for range 6 {
					requests = append(requests, clashingRequest(random))
				}
				foreseen := manager.Foresee(t.Context(), requests)
				require.Len(t, foreseen, len(requests))
				for i, r := range requests {
					lock, acquired, err := manager.TryAcquire(t.Context(), r)
					if err != nil {
						require.EqualError(t, foreseen[i].Err, err.Error())
						continue
					}
					require.NoError(t, foreseen[i].Err)
					require.Equal(t, acquired, foreseen[i].Acquired, "%s for %s", r.Resource, r.Owner())
					require.Equal(t, lock.Resource, foreseen[i].Lock.Resource)
					require.Equal(t, lock.Owner, foreseen[i].Lock.Owner)
				}
				locks, err := b.ListLocks(t.Context())
				require.NoError(t, err)
				for _, lock := range locks {
					if random.IntN(3) > 0 {
						require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
					}
				}
			}
			require.Empty(t, manager.Foresee(t.Context(), nil))
		})
	}
}

// clashingRequest draws a request from few owners for few resources, some of
// which have one legacy key.
func clashingRequest(random *rand.Rand) *enhanced.EnhancedLockRequest {
	projects := []enhanced.ResourceIdentifier{
		enhanced.ProjectResource(projectLock(host, "a/b", 1, "c/d").Project, "default"),
		enhanced.ProjectResource(projectLock(host, "a/b/c", 1, "d").Project, "default"),
		enhanced.ProjectResource(projectLock(host, "a", 1, "b/c/d").Project, "default"),
		enhanced.ProjectResource(projectLock(host, "a/b", 1, "c").Project, "default"),
		{Type: enhanced.ResourceTypeCustom, Namespace: "a/b", Path: "c/d", Workspace: "default"},
		enhanced.ProjectResource(projectLock(host, "a/b", 1, "\x00").Project, "default"),
	}
	r := userRequest([]string{"alice", "bob", "eve"}[random.IntN(3)], ".")
	if random.IntN(2) == 0 {
		p := pull(host, "a/b", 1+random.IntN(2))
		r.Pull = &p
	}
	r.Resource = projects[random.IntN(len(projects))]
	r.Project, r.Workspace = r.Resource.Project(), r.Resource.Workspace
	return r
}
