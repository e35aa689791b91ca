package backends_test

import (
	"context"
	"strconv"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// Waiters beyond the first of their owner are counted, whichever way they come and go:
// by that count a hand-over knows whether its next owner waits there a second time.
func TestRedisOwnersThatWaitTwice(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	requireTwice := func(n int) {
		t.Helper()
		text, err := strconv.Atoi(countOf(t.Context(), client, repositoryKey("org/app", "state"), "twice"))
		require.NoError(t, err)
		require.Equal(t, n, text)
		backendtest.RequireSound(t, b)
	}
	pull := func(number int) *enhanced.EnhancedLockRequest { return request(stockLock("org/app", number, "a")) }
	holder, err := b.AcquireLock(t.Context(), by("org/app", "a", "eve"))
	require.NoError(t, err)
	other, err := b.AcquireLock(t.Context(), by("org/app", "c", "eve"))
	require.NoError(t, err)
	require.True(t, try(t, b, place(5, "held", 0))) // it waits for nothing there

	calls := waits(t, b, pull(5), pull(6), request(stockLock("org/app", 5, "c")))
	requireTwice(0)
	require.False(t, try(t, b, place(5, "a", 0)))
	requireTwice(1)
	require.False(t, try(t, b, place(5, "a", 0)), "it has a place")
	requireTwice(1)
	more := waits(t, b, pull(6), pull(5))
	requireTwice(3)
	set := waitsForSet(t, b, requestsOf("a", "b", "c"))
	requireTwice(5)

	// Who leaves.
	ctx, cancel := context.WithCancel(t.Context())
	left, before := make(chan error, 1), waiting(t, b)
	go func() {
		_, err := b.AcquireLock(ctx, pull(6))
		left <- err
	}()
	backendtest.Eventually(t, "it waits", func() bool { return waiting(t, b) == before+1 })
	requireTwice(6)
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	requireTwice(5)
	require.NoError(t, b.CancelRequest(t.Context(), resourceOf(stockLock("org/app", 6, "a")), enhanced.PullOwner("github.com", "org/app", 6).String(), "user:ann"))
	requireLost(t, <-more)
	requireTwice(4)
	require.NoError(t, b.CancelRequest(t.Context(), resourceOf(stockLock("org/app", 5, "b")), enhanced.PullOwner("github.com", "org/app", 5).String(), "user:ann"))
	requireLost(t, <-set)
	requireTwice(2)

	// A hand-over takes out what its owner waits for besides.
	requireLost(t, <-calls)
	require.NoError(t, b.ReleaseLock(t.Context(), holder.ID))
	requireTwice(0)
	require.NoError(t, <-calls)
	require.ErrorIs(t, <-more, enhanced.ErrLockExists)
	require.Equal(t, 1, waiting(t, b))

	// So does the close of a pull request.
	require.False(t, try(t, b, place(5, "c", 0)))
	requireTwice(1)
	_, err = b.ReleaseByPull(t.Context(), "org/app", 5, "user:ann")
	require.NoError(t, err)
	requireLost(t, <-calls)
	requireTwice(0)
	require.NoError(t, b.ReleaseLock(t.Context(), other.ID))
	requireTwice(0)
}

// A set that is granted counts as those who leave do, and so does what its owner had
// waited for besides.
func TestRedisSetsThatWaitTwice(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", "a", "eve"))
	require.NoError(t, err)
	kept, err := b.AcquireLock(t.Context(), by("org/app", "d", "eve"))
	require.NoError(t, err)
	set := waitsForSet(t, b, requestsOf("a", "b"))
	later := requestsOf("b", "d")
	for _, r := range later {
		r.ID += " again"
	}
	other := waitsForSet(t, b, later)
	call := waits(t, b, request(stockLock("org/app", 5, "a")))
	require.Equal(t, "2", countOf(t.Context(), client, repositoryKey("org/app", "state"), "twice"))
	requireSound(t, b)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-set)
	require.ErrorIs(t, <-other, enhanced.ErrLockExists)
	require.ErrorIs(t, <-call, enhanced.ErrLockExists)
	require.Zero(t, waiting(t, b))
	require.Equal(t, "0", countOf(t.Context(), client, repositoryKey("org/app", "state"), "twice"))
	require.NoError(t, b.ReleaseLock(t.Context(), kept.ID))
	requireSound(t, b)
}

// A wrong count of those who wait twice is found and repaired. Where it can't be read, a
// hand-over looks for itself.
func TestRedisTwiceCorruptions(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	state := repositoryKey("org/app", "state")
	lock, err := b.AcquireLock(t.Context(), by("org/app", "a", "eve"))
	require.NoError(t, err)
	first, others := waits(t, b, by("org/app", "a", "bob")), waits(t, b, by("org/app", "a", "bob"), by("org/app", "a", "kim"))
	for _, damage := range []func() error{
		func() error { return setCount(t.Context(), client, state, "twice", 0) },
		func() error { return setCount(t.Context(), client, state, "twice", "many") },
	} {
		require.NoError(t, damage())
		violations, err := b.Verify(t.Context())
		require.NoError(t, err)
		require.Len(t, violations, 1)
		require.Equal(t, enhanced.RuleQueueCount, violations[0].Rule)
		repaired, err := b.Repair(t.Context(), "user:admin", "a test")
		require.NoError(t, err)
		require.Len(t, repaired, 1)
		require.Equal(t, "1", countOf(t.Context(), client, state, "twice"))
		requireSound(t, b)
	}
	require.NoError(t, setCount(t.Context(), client, state, "twice", "many"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.Equal(t, 1, waiting(t, b), "it went in the same step")
	require.NoError(t, <-first)
	require.ErrorIs(t, <-others, enhanced.ErrLockExists, "nobody waits behind himself")
	_, err = b.Repair(t.Context(), "user:admin", "a test")
	require.NoError(t, err)
	requireSound(t, b)
}
