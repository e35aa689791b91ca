package backendtest

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// forgetful is a backend whose first answer to a set is lost.
type forgetful struct {
	enhanced.Backend
	enhanced.SetLocker
	// meanwhile is what happens until the call is repeated.
	meanwhile func(locks []*enhanced.EnhancedLock)
}

func (f *forgetful) AcquireAll(ctx context.Context, set []*enhanced.EnhancedLockRequest, wait bool) ([]*enhanced.EnhancedLock, error) {
	locks, err := f.SetLocker.AcquireAll(ctx, set, wait)
	if f.meanwhile == nil || err != nil {
		return locks, err
	}
	f.meanwhile(locks)
	f.meanwhile = nil
	return nil, enhanced.NewBackendError("acquire a set", enhanced.ErrOutcomeUnknown)
}

// testSetsLostAnswer is about sets that a manager asks for again.
func testSetsLostAnswer(t *testing.T, newBackend NewBackend) {
	t.Helper()
	lockAll := map[string]func(m *enhanced.EnhancedLockManager, ctx context.Context, set []*enhanced.EnhancedLockRequest) ([]*enhanced.EnhancedLock, error){
		"LockAllNow": (*enhanced.EnhancedLockManager).LockAllNow,
		"LockAll":    (*enhanced.EnhancedLockManager).LockAll,
	}
	for name, lock := range lockAll {
		t.Run(name+", of which a part has ended before it is asked for again", func(t *testing.T) {
			config := queueConfig(func(c *enhanced.EnhancedConfig) { c.EnableRetry, c.RetryBaseDelay = true, time.Millisecond })
			b := newBackend(t, config)
			f := &forgetful{Backend: b, SetLocker: sets(b)}
			m := enhanced.NewEnhancedLockManager(f, config, nil)
			others := acquire(t, b, pullRequest(5, "others"))
			end := func(locks []*enhanced.EnhancedLock) {
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: locks[1].ID, Force: true, Actor: "user:admin", Reason: "test"})
				require.NoError(t, err)
			}

			f.meanwhile = end
			locks, err := lock(m, t.Context(), setOf(ofPull(5), "a", "b", "c"))
			require.NoError(t, err)
			require.Len(t, locks, 3)
			requireCount(t, b, 4)
			for _, lock := range locks {
				requireHeldBy(t, b, lock.Resource, lock.Owner)
			}
			requireHeldBy(t, b, resource("others"), others.Owner)
			requireVerified(t, b)

			// Somebody else has it: then nothing of the set is left.
			f.meanwhile = func(locks []*enhanced.EnhancedLock) {
				end(locks)
				acquire(t, b, userRequest("alice", "e"))
			}
			_, err = m.LockAllNow(t.Context(), setOf(ofPull(5), "d", "e", "f"))
			var refusal *enhanced.LockError
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
			require.Equal(t, "user:alice", refusal.Holder.Owner)
			requireCount(t, b, 5)
			requireVerified(t, b)

			// With IDs of his own the caller is told, who can have heard of the rest.
			f.meanwhile = end
			_, err = lock(m, t.Context(), withIDs("mine", setOf(ofPull(5), "g", "h", "i")))
			require.ErrorIs(t, err, enhanced.ErrRequestEnded)
			requireCount(t, b, 7)
			requireVerified(t, b)
		})
	}
}
