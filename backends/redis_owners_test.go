package backends_test

import (
	"context"
	"fmt"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// What an owner holds and what it waits for are led to by the same index. Each list and
// each release by pull request tells them apart, over several pages.
func TestRedisOwnersHoldAndWait(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	const paths = 130 // more than a page of a release
	for i := range paths {
		path := fmt.Sprintf("p%03d", i)
		require.True(t, try(t, b, place(5, path, 0)))
		require.False(t, try(t, b, place(6, path, 0)))
		if i%40 == 0 { // between its waits
			require.True(t, try(t, b, place(6, path+"/own", 0)))
		}
	}
	held := func() (numbers map[int]int) {
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		numbers = make(map[int]int)
		for _, lock := range locks {
			numbers[lock.OriginalLock.Pull.Num]++
		}
		return numbers
	}
	require.Equal(t, map[int]int{5: paths, 6: 4}, held())
	require.Equal(t, paths, waiting(t, b))
	backendtest.RequireSound(t, b)

	released, err := b.ReleaseByPull(t.Context(), "org/app", 6, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, 4)
	require.Equal(t, map[int]int{5: paths}, held())
	require.Zero(t, waiting(t, b))
	backendtest.RequireSound(t, b)

	// All is handed over to who waits.
	for i := range paths {
		require.False(t, try(t, b, place(6, fmt.Sprintf("p%03d", i), 0)))
	}
	released, err = b.ReleaseByPull(t.Context(), "org/app", 5, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, paths)
	require.Equal(t, map[int]int{6: paths}, held())
	require.Zero(t, waiting(t, b))
	backendtest.RequireSound(t, b)
	replaced, err := b.ReplaceAll(t.Context(), "org/app", enhanced.PullOwner("github.com", "org/app", 6), nil)
	require.NoError(t, err)
	require.Len(t, replaced.Freed, paths)
	backendtest.RequireSound(t, b)
}

// A request that waits, and is sent again when its owner may take what is free, gets its
// lock beside its place: the owner leads to the lock then.
func TestRedisRequestBesideItsPlace(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, reserving())
	var locks []*enhanced.EnhancedLock
	for _, path := range []string{"a", "b"} {
		lock, err := b.AcquireLock(t.Context(), by("org/app", path, "eve"))
		require.NoError(t, err)
		locks = append(locks, lock)
	}
	set := waitsForSet(t, b, requestsOf("a", "b"))
	one := request(stockLock("org/app", 5, "b"))
	one.ID = "one"
	first := waits(t, b, one)
	require.NoError(t, b.ReleaseLock(t.Context(), locks[1].ID)) // kept for the set
	require.Equal(t, 3, waiting(t, b))
	again, err := openRedis(t, client, reserving()).AcquireLock(context.WithoutCancel(t.Context()), one)
	require.NoError(t, err)
	require.Equal(t, "b", again.Resource.Path)
	<-first
	require.ErrorIs(t, <-set, enhanced.ErrLockExists)
	backendtest.RequireSound(t, b)
	require.NoError(t, b.ReleaseLock(t.Context(), again.ID))
	backendtest.RequireSound(t, b)
}
