package backendtest

import (
	"fmt"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// testPeers is about faults that other lock systems had with those who wait, as
// far as no other case is about them; docs/peers.md lists all.
func testPeers(t *testing.T, newBackend NewBackend) {
	t.Helper()
	// Redisson's fair lock took the time from its clients: one whose clock was fast
	// put live waiters out of the queue.
	t.Run("a client's clock orders nobody and takes nobody out", func(t *testing.T) {
		// With ageing the time counts by which somebody came.
		b := newBackend(t, queueConfig(func(c *enhanced.EnhancedConfig) { c.PriorityAgingInterval = time.Hour }))
		lock := acquire(t, b, userRequest("holder", "."))
		var waiters []*waiter
		for i, skew := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour, 20 * 365 * 24 * time.Hour, -time.Hour} {
			r := userRequest(fmt.Sprint("u", i), ".")
			r.RequestedAt = time.Now().Add(skew)
			waiters = append(waiters, enqueue(t, b, r))
		}
		for _, w := range waiters {
			release(t, b, lock)
			lock = w.requireGranted(t)
		}
		requireVerified(t, b)
	})

	// As in redisson/redisson#2172: two held one MultiLock for one mix of times.
	t.Run("no kind of lease lets a set past another", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		leases := []time.Duration{0, enhanced.NoTimeout, time.Hour}
		for i, held := range leases {
			for j, wanted := range leases {
				path := fmt.Sprint("p", i, j)
				set := func(number int, lease time.Duration) []*enhanced.EnhancedLockRequest {
					requests := setOf(ofPull(number), path+"a", path+"b")
					for _, r := range requests {
						r.Timeout = lease
					}
					return requests
				}
				_, err := sets(b).AcquireAll(t.Context(), set(1, held), false)
				require.NoError(t, err)
				_, err = sets(b).AcquireAll(t.Context(), set(2, wanted), false)
				require.ErrorIs(t, err, enhanced.ErrLockExists)
			}
		}
	})
}
