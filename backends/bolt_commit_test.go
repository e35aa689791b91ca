package backends

import (
	"context"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

// What comes while somebody else writes to the file, as stock does, goes into one
// transaction, and can be withdrawn until then.
func TestCommitterGathersWhileAnotherWrites(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	commits := 0
	c.committed = func(*batch) { commits++ }
	other, err := c.db.Begin(true)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	withdrawn := make(chan error, 1)
	go func() { withdrawn <- c.do(ctx, "write", write("withdrawn")) }()
	backendtest.Eventually(t, "it waits", func() bool { return c.gathered() == 1 })
	var callers sync.WaitGroup
	for i := range 10 {
		callers.Go(func() {
			if err := c.do(context.Background(), "write", write(string(rune('a'+i)))); err != nil {
				t.Error(err)
			}
		})
	}
	backendtest.Eventually(t, "all wait", func() bool { return c.gathered() == 11 })
	cancel()
	err = <-withdrawn
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	require.NoError(t, other.Rollback())
	callers.Wait()
	require.Equal(t, 1, commits)
	require.True(t, c.has(t, "a"))
	require.False(t, c.has(t, "withdrawn"))
}
