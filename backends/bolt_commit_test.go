package backends

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

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

// A caller leads also while a loop is there that has nothing to do, which ends all the
// same, or takes what has come meanwhile.
func TestCommitterHasACallerLeadBesideALoop(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	rests := func() bool { return c.is(&c.resting) }
	require.NoError(t, c.do(t.Context(), "write", write("by a loop")))
	backendtest.Eventually(t, "it rests, or has gone", func() bool { return rests() || c.idles() })
	answered := make(chan error, 1)
	led := false
	require.NoError(t, c.do(context.Background(), "write", func(b *batch) error {
		led = c.is(&c.leading)
		go func() { answered <- c.do(t.Context(), "write", write("meanwhile")) }()
		backendtest.Eventually(t, "it waits", func() bool { return c.gathered() == 1 })
		return write("led")(b)
	}))
	require.True(t, led)
	require.NoError(t, <-answered)
	for _, key := range []string{"by a loop", "led", "meanwhile"} {
		require.True(t, c.has(t, key), key)
	}
	backendtest.Eventually(t, "the loop has gone", func() bool {
		require.NoError(t, c.do(context.Background(), "write", write("led again")))
		return !c.is(&c.looping)
	})
}

// While a loop commits nobody leads, also where a loop before it has rested and gone.
func TestCommitterHasNobodyLeadBesideALoopThatCommits(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	for range 3 {
		inside, answered := 0, make(chan error, 1)
		step := func(b *batch) error {
			inside++
			defer func() { inside-- }()
			require.Equal(t, 1, inside)
			return write("a")(b)
		}
		require.NoError(t, c.do(t.Context(), "write", func(b *batch) error {
			go func() { answered <- c.do(context.Background(), "write", step) }()
			backendtest.Eventually(t, "it waits", func() bool { return c.gathered() == 1 })
			require.False(t, c.is(&c.leading))
			return step(b)
		}))
		require.NoError(t, <-answered)
		backendtest.Eventually(t, "the loop has gone", c.idles)
	}
}

// is reads one of the committer's fields.
func (c *committer) is(field *bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *field
}

// A caller leads one transaction. Where a step fails in it, another one runs the others
// again: a caller that is answered goes, however many fail one after the other.
func TestCommitterLetsALeaderGo(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	led, failure := make(chan error, 1), errors.New("it fails")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var callers sync.WaitGroup
	// Each of them has another one wait, until the leader has gone.
	var fails func(b *batch) error
	ask := func() {
		callers.Go(func() {
			if err := c.do(t.Context(), "fail", fails); !errors.Is(err, failure) {
				t.Error(err)
			}
		})
		backendtest.Eventually(t, "it waits", func() bool { return c.gathered() > 0 })
	}
	fails = func(*batch) error {
		if len(led) == 0 && ctx.Err() == nil {
			ask()
		}
		return failure
	}
	other, err := c.db.Begin(true)
	require.NoError(t, err)
	go func() { led <- c.do(context.Background(), "lead", fails) }()
	backendtest.Eventually(t, "it leads", func() bool { return c.gathered() == 1 })
	callers.Go(func() {
		if err := c.do(t.Context(), "write", write("a")); err != nil {
			t.Error(err)
		}
	})
	backendtest.Eventually(t, "another one waits", func() bool { return c.gathered() == 2 })
	require.NoError(t, other.Rollback())
	callers.Wait()
	require.NoError(t, ctx.Err(), "the leader did not go")
	require.ErrorIs(t, <-led, failure)
	require.True(t, c.has(t, "a"))
}

func (c *committer) idles() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.leading && !c.looping
}
