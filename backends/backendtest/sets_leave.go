package backendtest

import (
	"context"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func testSetsLeave(t *testing.T, newBackend NewBackend) {
	t.Helper()
	t.Run("leaving leaves whole", func(t *testing.T) {
		for name, leave := range map[string]func(b enhanced.Backend, w *waitingSet){
			"context": func(_ enhanced.Backend, w *waitingSet) { w.cancel() },
			"cancelled": func(b enhanced.Backend, _ *waitingSet) {
				require.NoError(t, b.CancelRequest(t.Context(), resource("b"), pullRequest(5, "a").Owner().String(), "user:admin"))
			},
			"closed": func(b enhanced.Backend, _ *waitingSet) {
				_, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
				require.NoError(t, err)
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBackend(t, queueConfig(nil))
				lock := acquire(t, b, userRequest("holder", "a"))
				w := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c"))
				leave(b, w)
				_, err := w.result(t)
				require.Error(t, err)
				Eventually(t, "nothing waits", func() bool { return queueLength(t, b) == 0 })
				release(t, b, lock)
				requireCount(t, b, 0)
				page, err := b.ReadLog(t.Context(), repo, 0, 100)
				require.NoError(t, err)
				kinds := make(map[string]int)
				for _, r := range page.Records {
					kinds[r.Type]++
				}
				require.Equal(t, map[string]int{enhanced.EventAcquired: 1, enhanced.EventQueued: 3, enhanced.EventCancelled: 3, enhanced.EventReleased: 1}, kinds)
				requireVerified(t, b)
			})
		}
	})

	t.Run("at the instant of the grant", func(t *testing.T) {
		b := newBackend(t, queueConfig(nil))
		granted := 0
		rounds := Rounds(1_000)
		for round := range rounds {
			lock := acquire(t, b, userRequest("holder", "a"))
			w := enqueueSet(t, b, setOf(ofPull(5), "a", "b", "c"))
			if round%2 == 0 {
				Together(2, func(i int) {
					if i == 0 {
						w.cancel()
					} else {
						assert.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
					}
				})
			} else {
				// The call has both then, the locks and the end of its context.
				release(t, b, lock)
				w.cancel()
			}
			locks, err := w.result(t)
			if err == nil {
				granted++
				requireCount(t, b, 3)
				release(t, b, locks...)
			} else {
				require.ErrorIs(t, err, context.Canceled)
				Eventually(t, "nothing is held", func() bool {
					held, err := b.ListLocks(t.Context())
					return err == nil && len(held) == 0
				})
			}
			Eventually(t, "nothing waits", func() bool { return queueLength(t, b) == 0 })
		}
		t.Logf("granted in %d of %d rounds", granted, rounds)
		requireVerified(t, b)
	})
}
