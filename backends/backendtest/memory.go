package backendtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

func withID(request *enhanced.EnhancedLockRequest, id string) *enhanced.EnhancedLockRequest {
	request.ID = id
	return request
}

func testMemory(t *testing.T, newBackend NewBackend) {
	t.Run("a request whose lock is gone never acquires again", func(t *testing.T) {
		b := newBackend(t, nil)
		for name, end := range map[string]func(lock *enhanced.EnhancedLock) error{
			"released": func(lock *enhanced.EnhancedLock) error { return b.ReleaseLock(t.Context(), lock.ID) },
			"forced": func(lock *enhanced.EnhancedLock) error {
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true})
				return err
			},
			"by pull": func(*enhanced.EnhancedLock) error {
				_, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
				return err
			},
			"expired": func(lock *enhanced.EnhancedLock) error {
				awaitEnd(t, b, lock)
				return nil
			},
			"transferred": func(lock *enhanced.EnhancedLock) error {
				if err := b.TransferLock(t.Context(), lock.ID, "user:alice"); err != nil {
					return err
				}
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: "user:alice"})
				return err
			},
		} {
			request := func() *enhanced.EnhancedLockRequest {
				r := withID(pullRequest(5, name), "request "+name)
				if name == "expired" {
					r.Timeout = shortLease
				}
				return r
			}
			lock := acquire(t, b, request())
			require.NoError(t, end(lock), name)
			for range 2 {
				_, _, err := b.TryAcquireLock(t.Context(), request())
				require.ErrorIs(t, err, enhanced.ErrLockExpired, name)
				requireFree(t, b, lock.Resource)
			}
			// Also while somebody else has it.
			acquire(t, b, pullRequest(6, name))
			_, err := b.AcquireLock(t.Context(), request())
			require.ErrorIs(t, err, enhanced.ErrLockExpired, name)
			requireHeldBy(t, b, lock.Resource, "pr:github.com/org%2Fapp/6")
		}
	})

	t.Run("an ID is for one owner and one resource", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, withID(pullRequest(5, "."), "one"))
		reuse := func() {
			for _, request := range []*enhanced.EnhancedLockRequest{
				withID(pullRequest(6, "."), "one"), withID(pullRequest(5, "other"), "one"), withID(userRequest("author", "."), "one"),
			} {
				_, err := b.AcquireLock(t.Context(), request)
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
				require.ErrorContains(t, err, `"one"`)
			}
		}
		reuse()
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		reuse()
	})

	t.Run("in another repository an ID names another request", func(t *testing.T) {
		b := newBackend(t, nil)
		first := acquire(t, b, withID(pullRequest(5, "."), "id"))
		other := acquire(t, b, withID(pullRequestOf(host, "org/other", 6, "."), "id"))
		require.NotEqual(t, first.ID, other.ID)
		require.Equal(t, first.ID, acquire(t, b, withID(pullRequest(5, "."), "id")).ID)
		require.Equal(t, other.ID, acquire(t, b, withID(pullRequestOf(host, "org/other", 6, "."), "id")).ID)
		require.NoError(t, b.ReleaseLock(t.Context(), first.ID))
		require.Equal(t, other.ID, acquire(t, b, withID(pullRequestOf(host, "org/other", 6, "."), "id")).ID)
		_, err := b.AcquireLock(t.Context(), withID(pullRequest(5, "."), "id"))
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
	})

	t.Run("a refusal is not remembered", func(t *testing.T) {
		// So its late copy is a request like any other, as Backend says. What it
		// took can be seen and freed by who did not know of it.
		b := newBackend(t, nil)
		holder := acquire(t, b, pullRequest(6, "."))
		_, acquired, err := b.TryAcquireLock(t.Context(), withID(pullRequest(5, "."), "again"))
		require.NoError(t, err)
		require.False(t, acquired)
		require.NoError(t, b.ReleaseLock(t.Context(), holder.ID))
		late := acquire(t, b, withID(pullRequest(5, "."), "again"))
		holder, acquired, err = b.TryAcquireLock(t.Context(), pullRequest(5, "."))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, late.ID, holder.ID)
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: late.Resource, Owner: late.Owner})
		require.NoError(t, err)
		requireFree(t, b, late.Resource)
	})

	t.Run("a release that is repeated is the same release", func(t *testing.T) {
		b := newBackend(t, nil)
		lock := acquire(t, b, pullRequest(5, "."))
		for range 3 {
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		}
		gone := acquire(t, b, pullRequest(5, "."))
		require.NoError(t, b.TransferLock(t.Context(), gone.ID, "user:alice"))
		require.ErrorIs(t, b.ReleaseLock(t.Context(), gone.ID), enhanced.ErrLockNotFound)
		short := acquire(t, b, leased(pullRequest(5, "short"), shortLease))
		awaitEnd(t, b, short)
		for range 2 {
			require.ErrorIs(t, b.ReleaseLock(t.Context(), short.ID), enhanced.ErrLockExpired)
		}
	})

	t.Run("lost, late and repeated messages", func(t *testing.T) { testBadNetwork(t, newBackend(t, nil)) })
}

// network carries calls to a real backend as a bad network does: a reply can
// be lost after the call took effect, and any call can be delivered once more,
// much later.
type network struct {
	enhanced.Backend
	random *rand.Rand
	late   []message
}

// message is a call that can be delivered once more.
type message struct {
	request string
	deliver func()
}

var errReplyLost = errors.New("reply lost")

func (n *network) acquire(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	copied := *request
	n.late = append(n.late, message{request.ID, func() {
		//nolint:errcheck // nobody waits for this reply
		n.TryAcquireLock(ctx, &copied)
	}})
	lock, acquired, err := n.TryAcquireLock(ctx, request)
	if n.random.IntN(3) == 0 {
		return nil, false, errReplyLost
	}
	return lock, acquired, err
}

func (n *network) release(ctx context.Context, id string) error {
	n.late = append(n.late, message{"", func() {
		//nolint:errcheck // nobody waits for this reply
		n.ReleaseLock(ctx, id)
	}})
	err := n.ReleaseLock(ctx, id)
	if n.random.IntN(3) == 0 {
		return errReplyLost
	}
	return err
}

// deliver sends some of the late messages.
func (n *network) deliver() {
	for range n.random.IntN(4) {
		if len(n.late) == 0 {
			return
		}
		i := n.random.IntN(len(n.late))
		n.late[i].deliver()
	}
}

// drop loses the late copies of a request for good.
func (n *network) drop(request string) {
	n.late = slices.DeleteFunc(n.late, func(m message) bool { return m.request == request })
}

// testBadNetwork has clients that repeat what was not answered, as a correct
// client does. What they believe must be what the store says at all times.
func testBadNetwork(t *testing.T, b enhanced.Backend) {
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	n := &network{Backend: b, random: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // not for secrets
	const clients, resources = 3, 2
	holds := make([]*enhanced.EnhancedLock, resources)
	for round := range Rounds(4_000) {
		client, place := n.random.IntN(clients), n.random.IntN(resources)
		path := "p" + itoa(place)
		if held := holds[place]; held != nil && n.random.IntN(2) == 0 {
			for {
				err := n.release(t.Context(), held.ID)
				if errors.Is(err, errReplyLost) {
					n.deliver()
					continue
				}
				require.NoError(t, err, "round %d", round)
				break
			}
			holds[place] = nil
		} else {
			request := withID(userRequest("client"+itoa(client), path), "r"+itoa(round))
			for {
				lock, acquired, err := n.acquire(t.Context(), request)
				if errors.Is(err, errReplyLost) {
					n.deliver()
					continue
				}
				require.NoError(t, err, "round %d", round)
				require.Equal(t, holds[place] == nil, acquired, "round %d", round)
				if acquired {
					holds[place] = lock
				} else {
					require.Equal(t, holds[place].ID, lock.ID, "round %d", round)
					// A refused request had no effect and is not remembered: its
					// copy is a new request.
					n.drop(request.ID)
				}
				break
			}
		}
		n.deliver()
		for place, want := range holds {
			lock, err := b.LookupLock(t.Context(), enhanced.ProjectResource(models.NewProject(repo, "p"+itoa(place), ""), "default"))
			if want == nil {
				require.ErrorIs(t, err, enhanced.ErrLockNotFound, "round %d: a late message took a lock", round)
				continue
			}
			require.NoError(t, err, "round %d: a late message freed a lock", round)
			require.Equal(t, want.ID, lock.ID, "round %d", round)
		}
	}
}
