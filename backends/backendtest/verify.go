package backendtest

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// testVerify is for backends that can verify what they have stored.
func testVerify(t *testing.T, newBackend NewBackend) {
	t.Run("who finds nothing leaves nothing", func(t *testing.T) {
		b := newBackend(t, nil)
		freed, err := b.ReleaseByPull(t.Context(), "org/never", 7, enhanced.SystemAtlantis)
		require.NoError(t, err)
		require.Empty(t, freed)
		require.ErrorIs(t, b.ReleaseLock(t.Context(), enhanced.FormatLockID("org/never", 7)), enhanced.ErrLockNotFound)
		RequireSound(t, b)
	})

	t.Run("clean after any run of operations", func(t *testing.T) {
		for _, preserve := range []bool{true, false} {
			config := enhanced.DefaultConfig()
			config.PreserveLegacyFormat = preserve
			config.LogMaxRecords = 100
			b := newBackend(t, config)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			for range Rounds(100) {
				Churn(t, b, random, 50)
				RequireSound(t, b)
			}
		}
	})
}

// RequireSound checks that a store which is in use breaks no rule, and that
// there is nothing to repair. It does nothing for a backend that can't verify.
func RequireSound(t *testing.T, b enhanced.Backend) {
	t.Helper()
	verifier, ok := b.(enhanced.Verifier)
	if !ok {
		return
	}
	violations, err := verifier.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	repaired, err := verifier.Repair(t.Context(), "user:admin", "to be sure")
	require.NoError(t, err)
	require.Empty(t, repaired)
}

// Churn runs random operations of a few owners on a few resources, so that they
// meet. Refusals are part of it; any other error fails the test.
func Churn(t *testing.T, b enhanced.Backend, random *rand.Rand, steps int) {
	t.Helper()
	c := churn{Backend: b, random: random}
	for range steps {
		err := c.step(t)
		var refusal *enhanced.LockError
		if err != nil && (!errors.As(err, &refusal) || refusal.Code == enhanced.ErrCodeBackendError) {
			t.Fatalf("%v", err)
		}
	}
}

type churn struct {
	enhanced.Backend
	random *rand.Rand
	ids    []string // of locks, held or not
}

func (c *churn) step(t *testing.T) error {
	t.Helper()
	ctx := t.Context()
	switch c.random.IntN(12) {
	case 0:
		_, err := c.ReleaseByPull(ctx, c.repository(), c.number(), enhanced.SystemAtlantis)
		return err
	case 1:
		_, err := c.CleanupExpiredLocks(ctx)
		return err
	case 2:
		_, err := c.ListLocks(ctx)
		return err
	case 3:
		return c.RefreshLock(ctx, c.id(), c.lease())
	case 4:
		owner := enhanced.UserOwner("bob")
		if c.random.IntN(2) == 0 {
			owner = enhanced.PullOwner(host, c.repository(), c.number())
		}
		return c.TransferLock(ctx, c.id(), owner.String())
	case 5, 6:
		return c.ReleaseLock(ctx, c.id())
	case 7:
		_, err := c.Release(ctx, enhanced.ReleaseRequest{Resource: c.request().Resource, Force: true, Actor: "user:admin"})
		return err
	default:
		lock, acquired, err := c.TryAcquireLock(ctx, c.request())
		if acquired {
			c.ids = append(c.ids, lock.ID)
		}
		return err
	}
}

// request makes a request; some have an ID that was used before.
func (c *churn) request() *enhanced.EnhancedLockRequest {
	request := pullRequestOf(host, c.repository(), c.number(), "dir/"+itoa(c.random.IntN(4)))
	request.Priority = enhanced.Priority(c.random.IntN(4))
	request.Timeout = c.lease()
	if c.random.IntN(3) == 0 {
		request.Pull, request.User = nil, models.User{Username: "alice"}
	}
	if c.random.IntN(3) == 0 {
		request.ID = "request-" + itoa(c.random.IntN(20))
	}
	request.Resource = enhanced.ProjectResource(request.Project, request.Workspace)
	if c.random.IntN(5) == 0 {
		request.Resource.Type = enhanced.ResourceTypeCustom
		request.Project, request.Workspace = models.Project{}, ""
	}
	return request
}

func (c *churn) id() string {
	if len(c.ids) == 0 {
		return "none"
	}
	return c.ids[c.random.IntN(len(c.ids))]
}

func (c *churn) lease() time.Duration {
	return []time.Duration{enhanced.NoTimeout, time.Millisecond, 20 * time.Millisecond, time.Hour}[c.random.IntN(4)]
}

// Two of the repositories have the same keys in stock's store.
func (c *churn) repository() string {
	return []string{repo, "org", "org/app/dir"}[c.random.IntN(3)]
}

func (c *churn) number() int { return c.random.IntN(3) }
