package backendtest

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// testSetsTogether is about what a step frees of several locks: all of it is free before
// the first one is handed over, so that who comes later than a set does not pass it.
func testSetsTogether(t *testing.T, newBackend NewBackend) {
	t.Helper()
	releaseAll := func(t *testing.T, b enhanced.Backend) {
		t.Helper()
		_, err := b.ReleaseByPull(t.Context(), repo, 5, enhanced.SystemAtlantis)
		require.NoError(t, err)
	}
	endRun := func(t *testing.T, b enhanced.Backend) {
		t.Helper()
		require.NoError(t, b.(enhanced.RunKeeper).EndRun(t.Context(), enhanced.PullOwner(host, repo, 5)))
	}
	for name, c := range map[string]struct {
		reserved []string
		free     func(t *testing.T, b enhanced.Backend)
	}{
		"all locks of a pull request":             {nil, releaseAll},
		"what it holds and what it has reserved":  {[]string{"a"}, releaseAll},
		"what it has reserved and what it holds":  {[]string{"c"}, releaseAll},
		"what it has reserved, when its run ends": {[]string{"a", "b", "c"}, endRun},
	} {
		t.Run("free together: "+name, func(t *testing.T) {
			b := newBackend(t, queueConfig(nil))
			lockSet(t, b, setOf(ofPull(5), "a", "b", "c"))
			before := enqueue(t, b, userRequest("before", "b"))
			set := enqueueSet(t, b, setOf(ofPull(6), "a", "c"))
			late := []*waiter{enqueue(t, b, userRequest("ann", "a")), enqueue(t, b, userRequest("bob", "c"))}
			for _, path := range c.reserved {
				_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource(path), Owner: pullID(5), Reserve: true})
				require.NoError(t, err)
			}
			c.free(t, b)
			locks := set.requireGranted(t)
			before.requireGranted(t)
			for i, w := range late {
				w.requireWaits(t)
				release(t, b, locks[i])
				w.requireGranted(t)
			}
			requireVerified(t, b)
		})
	}
}
