package backendtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// RunSets is the part of the suite for backends that lock sets at once.
func RunSets(t *testing.T, newBackend NewBackend) {
	t.Helper()
	testLockAll(t, newBackend)
	testLockAllMemory(t, newBackend)
	testLockAllManager(t, newBackend)
	testReplaceLocks(t, newBackend)
	testSetsConcurrency(t, newBackend)
}

// setOf makes a request of an owner for each path.
func setOf(request func(path string) *enhanced.EnhancedLockRequest, paths ...string) []*enhanced.EnhancedLockRequest {
	set := make([]*enhanced.EnhancedLockRequest, len(paths))
	for i, path := range paths {
		set[i] = request(path)
	}
	return set
}

func ofUser(name string) func(path string) *enhanced.EnhancedLockRequest {
	return func(path string) *enhanced.EnhancedLockRequest { return userRequest(name, path) }
}

func ofPull(number int) func(path string) *enhanced.EnhancedLockRequest {
	return func(path string) *enhanced.EnhancedLockRequest { return pullRequest(number, path) }
}

// numbered returns n paths.
func numbered(n int) []string {
	paths := make([]string, n)
	for i := range paths {
		paths[i] = fmt.Sprintf("p%03d", i)
	}
	return paths
}

// withIDs gives requests IDs, so that they can be sent again.
func withIDs(prefix string, set []*enhanced.EnhancedLockRequest) []*enhanced.EnhancedLockRequest {
	for i, r := range set {
		r.ID = prefix + itoa(i)
	}
	return set
}

func sets(b enhanced.Backend) enhanced.SetLocker { return b.(enhanced.SetLocker) }

func lockSet(t *testing.T, b enhanced.Backend, set []*enhanced.EnhancedLockRequest) []*enhanced.EnhancedLock {
	t.Helper()
	locks, err := sets(b).AcquireAll(t.Context(), set, false)
	require.NoError(t, err)
	require.Len(t, locks, len(set))
	return locks
}

func ids(locks []*enhanced.EnhancedLock) []string {
	ids := make([]string, len(locks))
	for i, lock := range locks {
		ids[i] = lock.ID
	}
	return ids
}

func requireCount(t *testing.T, b enhanced.Backend, want int) {
	t.Helper()
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, want)
}

func testLockAll(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("all, with all that a lock has", func(t *testing.T) {
		b := newBackend(t, nil)
		set := setOf(ofPull(5), "b", "a", "c")
		set[0].Timeout, set[1].Metadata = time.Hour, map[string]string{enhanced.MetadataNote: "mine", "k": "v w"}
		set[2].Priority = enhanced.PriorityHigh
		locks := lockSet(t, b, set)
		tokens := make(map[int64]bool)
		for i, path := range []string{"b", "a", "c"} {
			require.Equal(t, resource(path), locks[i].Resource)
			require.Equal(t, enhanced.LockStateAcquired, locks[i].State)
			require.Equal(t, set[i].Owner().String(), locks[i].Owner)
			require.Equal(t, set[i].Metadata, locks[i].Metadata)
			require.Equal(t, set[i].Priority, locks[i].Priority)
			require.Positive(t, locks[i].Version)
			require.False(t, tokens[locks[i].Version])
			tokens[locks[i].Version] = true
			stored, err := b.GetLock(t.Context(), locks[i].ID)
			require.NoError(t, err)
			require.Equal(t, stored, locks[i])
		}
		require.Equal(t, time.Hour, locks[0].ExpiresAt.Sub(locks[0].AcquiredAt))
		require.Nil(t, locks[1].ExpiresAt)
		page, err := b.ReadLog(t.Context(), repo, 0, 100)
		require.NoError(t, err)
		require.Len(t, page.Records, 3, "a record for each change")
		for _, r := range page.Records {
			require.Equal(t, enhanced.EventAcquired, r.Type)
			require.True(t, tokens[r.Token])
			require.NotEmpty(t, r.RequestID)
			require.Equal(t, set[0].Owner().String(), r.Actor)
		}
		released, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
		require.NoError(t, err)
		require.Len(t, released, 3)
		requireCount(t, b, 0)
		requireVerified(t, b)
	})

	t.Run("80 projects against 1", func(t *testing.T) {
		b := newBackend(t, nil)
		one := acquire(t, b, userRequest("alice", "p041"))
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), numbered(80)...), false)
		refusal := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
		require.Equal(t, resource("p041"), refusal.Resource)
		require.Equal(t, one.ID, refusal.Holder.ID)
		require.Contains(t, refusal.Message, "1 of 80 is locked, none was taken")
		require.Contains(t, refusal.Message, "user alice")
		requireCount(t, b, 1)
		require.NoError(t, b.ReleaseLock(t.Context(), one.ID))
		lockSet(t, b, setOf(ofPull(5), numbered(80)...))
		requireCount(t, b, 80)
		_, acquired, err := b.TryAcquireLock(t.Context(), userRequest("alice", "p041"))
		require.NoError(t, err)
		require.False(t, acquired)
		requireVerified(t, b)
	})

	t.Run("a refusal names who holds what", func(t *testing.T) {
		b := newBackend(t, nil)
		for i, path := range numbered(30) {
			acquire(t, b, userRequest(fmt.Sprint("holder", i), path))
		}
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), numbered(40)...), false)
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.ErrorContains(t, err, "30 of 40 are locked")
		for i, path := range numbered(20) {
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, fmt.Sprint("user holder", i))
		}
		require.ErrorContains(t, err, "and 10 more")
		requireCount(t, b, 30)
	})

	t.Run("what the owner holds already", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, userRequest("alice", "a"))
		own := acquire(t, b, pullRequest(5, "b"))
		_, err := sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "a", "b", "c"), false)
		refusal := (*enhanced.LockError)(nil)
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
		require.Equal(t, own.ID, refusal.Holder.ID, "what the owner can do something about")
		require.Contains(t, refusal.Message, "2 of 3")
		require.Contains(t, refusal.Message, "what its owner does not hold yet")
		requireCount(t, b, 2)
	})

	t.Run("a lease that is over is none", func(t *testing.T) {
		b := newBackend(t, nil)
		leased := userRequest("alice", "a")
		leased.Timeout = time.Millisecond
		lock := acquire(t, b, leased)
		var locks []*enhanced.EnhancedLock
		Eventually(t, "the lease ends", func() (done bool) {
			var err error
			locks, err = sets(b).AcquireAll(t.Context(), setOf(ofPull(5), "a", "b"), false)
			return err == nil
		})
		require.Greater(t, locks[0].Version, lock.Version)
		require.Greater(t, locks[1].Version, lock.Version)
		requireVerified(t, b)
	})

	t.Run("duplicates", func(t *testing.T) {
		b := newBackend(t, nil)
		set := setOf(ofPull(5), "a", "b", "./a", "a/", "b")
		set[2].Timeout = time.Hour
		locks, err := sets(b).AcquireAll(t.Context(), set, false)
		require.NoError(t, err)
		require.Len(t, locks, 2)
		require.Equal(t, resource("a"), locks[0].Resource)
		require.Nil(t, locks[0].ExpiresAt, "the first one counts")
		require.Equal(t, resource("b"), locks[1].Resource)
	})

	t.Run("what is no set", func(t *testing.T) {
		b := newBackend(t, nil)
		elsewhere := pullRequestOf(host, "org/other", 5, "b")
		for name, set := range map[string][]*enhanced.EnhancedLockRequest{
			"no requests":      nil,
			"two owners":       {pullRequest(5, "a"), pullRequest(6, "b")},
			"an owner's kinds": {pullRequest(5, "a"), userRequest("author", "b")},
			"two repositories": {pullRequest(5, "a"), elsewhere},
			"a nil request":    {pullRequest(5, "a"), nil},
			"501 resources":    setOf(ofPull(5), numbered(501)...),
			"one ID for two":   {withIDs("x", setOf(ofPull(5), "a"))[0], withIDs("x", setOf(ofPull(5), "b"))[0]},
		} {
			_, err := sets(b).AcquireAll(t.Context(), set, false)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
			switch name {
			case "501 resources":
				require.ErrorContains(t, err, "500")
			case "two owners":
				require.ErrorContains(t, err, "/5")
				require.ErrorContains(t, err, "/6")
			case "two repositories":
				require.ErrorContains(t, err, "org/other")
			}
		}
		requireCount(t, b, 0)
	})

	t.Run("500 resources", func(t *testing.T) {
		b := newBackend(t, nil)
		lockSet(t, b, setOf(ofPull(5), numbered(500)...))
		requireCount(t, b, 500)
		requireVerified(t, b)
		replaced, err := sets(b).ReplaceAll(t.Context(), repo, pullRequest(5, "a").Owner(), setOf(ofPull(5), numbered(250)...))
		require.NoError(t, err)
		require.Len(t, replaced.Held, 250)
		require.Empty(t, replaced.Taken)
		require.Len(t, replaced.Freed, 250)
		requireCount(t, b, 250)
		requireVerified(t, b)
	})

	t.Run("a context that has ended", func(t *testing.T) {
		b := newBackend(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := sets(b).AcquireAll(ctx, setOf(ofPull(5), "a", "b"), false)
		require.ErrorIs(t, err, context.Canceled)
		requireCount(t, b, 0)
	})
}

func testLockAllMemory(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("a set whose answer was lost is sent again", func(t *testing.T) {
		b := newBackend(t, nil)
		first := lockSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b", "c")))
		again := lockSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b", "c")))
		require.Equal(t, first, again)
		requireCount(t, b, 3)
		page, err := b.ReadLog(t.Context(), repo, 0, 100)
		require.NoError(t, err)
		require.Len(t, page.Records, 3)
		// One that has ended is not taken again.
		require.NoError(t, b.ReleaseLock(t.Context(), first[1].ID))
		_, err = sets(b).AcquireAll(t.Context(), withIDs("once", setOf(ofPull(5), "a", "b", "c")), false)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		requireCount(t, b, 2)
		for _, lock := range []*enhanced.EnhancedLock{first[0], first[2]} {
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		}
		_, err = sets(b).AcquireAll(t.Context(), withIDs("once", setOf(ofPull(5), "a", "b", "c")), false)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		lockSet(t, b, withIDs("anew", setOf(ofPull(5), "a", "b", "c")))
		requireVerified(t, b)
	})

	t.Run("an ID of something else", func(t *testing.T) {
		b := newBackend(t, nil)
		lockSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b")))
		for _, set := range [][]*enhanced.EnhancedLockRequest{
			withIDs("once", setOf(ofPull(6), "a", "b")),
			withIDs("once", setOf(ofPull(5), "b", "a")),
			withIDs("once", setOf(ofPull(5), "c", "d")),
		} {
			_, err := sets(b).AcquireAll(t.Context(), set, false)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			_, err = sets(b).ReplaceAll(t.Context(), repo, set[0].Owner(), set)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		}
		requireCount(t, b, 2)
	})

	t.Run("a refusal is not remembered", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, userRequest("alice", "b"))
		_, err := sets(b).AcquireAll(t.Context(), withIDs("once", setOf(ofPull(5), "a", "b")), false)
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		lockSet(t, b, withIDs("once", setOf(ofPull(5), "a", "b")))
	})

	t.Run("a part of a set that was taken alone is held", func(t *testing.T) {
		b := newBackend(t, nil)
		set := withIDs("once", setOf(ofPull(5), "a", "b"))
		acquire(t, b, set[0])
		_, err := sets(b).AcquireAll(t.Context(), set, false)
		require.ErrorIs(t, err, enhanced.ErrLockExists)
		requireCount(t, b, 1)
	})
}

// newSetManager makes a manager on a new backend.
func newSetManager(t *testing.T, newBackend NewBackend, config *enhanced.EnhancedConfig) (*enhanced.EnhancedLockManager, enhanced.Backend) {
	t.Helper()
	b := newBackend(t, config)
	return enhanced.NewEnhancedLockManager(b, config, nil), b
}

func userOf(name, repository, path string) *enhanced.EnhancedLockRequest {
	r := pullRequestOf(host, repository, 1, path)
	r.Pull, r.User.Username = nil, name
	return r
}

func testLockAllManager(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("several repositories", func(t *testing.T) {
		m, b := newSetManager(t, newBackend, nil)
		set := []*enhanced.EnhancedLockRequest{
			userOf("alice", "org/c", "x"), userOf("alice", "org/a", "x"), userOf("alice", "org/b", "x"), userOf("alice", "org/a", "y"),
		}
		locks, err := m.LockAll(t.Context(), set)
		require.NoError(t, err)
		for i, lock := range locks {
			require.Equal(t, set[i].Project.RepoFullName, lock.Resource.Namespace)
			require.Equal(t, set[i].Project.Path, lock.Resource.Path)
		}
		requireCount(t, b, 4)
	})

	t.Run("several repositories, of which the last is refused", func(t *testing.T) {
		m, b := newSetManager(t, newBackend, nil)
		acquire(t, b, userOf("bob", "org/c", "x"))
		for range 2 {
			_, err := m.LockAll(t.Context(), []*enhanced.EnhancedLockRequest{
				userOf("alice", "org/c", "x"), userOf("alice", "org/a", "x"), userOf("alice", "org/b", "x"),
			})
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
			require.ErrorContains(t, err, "user bob")
			requireCount(t, b, 1)
		}
		page, err := b.ReadLog(t.Context(), "org/b", 0, 100)
		require.NoError(t, err)
		require.Len(t, page.Records, 4)
		require.Equal(t, "the rest of its set was refused", page.Records[1].Reason)
	})

	t.Run("another owner in the set", func(t *testing.T) {
		m, b := newSetManager(t, newBackend, nil)
		_, err := m.LockAll(t.Context(), []*enhanced.EnhancedLockRequest{userOf("alice", "org/a", "x"), userOf("bob", "org/a", "y")})
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "user:alice")
		require.ErrorContains(t, err, "user:bob")
		_, err = m.ReplaceLocks(t.Context(), enhanced.UserOwner("alice"), []*enhanced.EnhancedLockRequest{userOf("bob", "org/a", "y")})
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, "user:alice")
		require.ErrorContains(t, err, "user:bob")
		_, err = m.ReplaceLocks(t.Context(), enhanced.UserOwner("alice"), nil)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		requireCount(t, b, 0)
	})

	t.Run("the authorizer is asked about each", func(t *testing.T) {
		b := newBackend(t, nil)
		denied := errors.New("not that one")
		m := enhanced.NewEnhancedLockManager(b, nil, nil, enhanced.WithAuthorizer(func(_ context.Context, r enhanced.AuthorizationRequest) error {
			if strings.HasPrefix(r.Resource.Path, "secret") && r.Action == enhanced.ActionAcquire || r.Action == enhanced.ActionRelease && r.Resource.Path == "kept" {
				return denied
			}
			return nil
		}))
		_, err := m.LockAll(t.Context(), setOf(ofPull(5), "a", "secret", "b"))
		require.ErrorIs(t, err, denied)
		owner := pullRequest(5, "a").Owner()
		_, err = m.ReplaceLocks(t.Context(), owner, setOf(ofPull(5), "secret"))
		require.ErrorIs(t, err, denied)
		requireCount(t, b, 0)
		_, err = m.LockAll(t.Context(), setOf(ofPull(5), "a", "kept"))
		require.NoError(t, err)
		_, err = m.ReplaceLocks(t.Context(), owner, setOf(ofPull(5), "a"))
		require.ErrorIs(t, err, denied)
		requireCount(t, b, 2)
	})
}
