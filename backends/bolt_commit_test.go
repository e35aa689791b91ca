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

// A caller whose context never ends commits by itself; what has come meanwhile is
// committed by somebody else.
func TestCommitterHasACallerLead(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	commits := 0
	c.committed = func(*batch) { commits++ }
	require.NoError(t, c.do(context.Background(), "write", write("alone")))
	require.True(t, c.idles(), "there is no goroutine that lingers")

	answered := make(chan error, 2)
	require.NoError(t, c.do(context.Background(), "write", func(b *batch) error {
		go func() { answered <- c.do(t.Context(), "write", write("second")) }()
		go func() { answered <- c.do(context.Background(), "write", write("third")) }()
		backendtest.Eventually(t, "they wait", func() bool { return c.gathered() == 2 })
		return write("first")(b)
	}))
	require.NoError(t, <-answered)
	require.NoError(t, <-answered)
	require.Equal(t, 3, commits)
	for _, key := range []string{"alone", "first", "second", "third"} {
		require.True(t, c.has(t, key), key)
	}
	c.close()
	require.ErrorIs(t, c.do(context.Background(), "write", write("late")), enhanced.ErrClosed)
}

func (c *committer) idles() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.running
}
