package backends_test

import (
	"fmt"
	"strconv"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
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

// A request that was given a lock, and waits in a set after that: its owner leads to
// both by one entry, which stays for the other one when one of them goes.
func TestRedisOwnersHoldAndWaitByOneRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(b *backends.RedisBackend, given *enhanced.EnhancedLock) error
		left int
	}{
		"it is released": {func(b *backends.RedisBackend, given *enhanced.EnhancedLock) error {
			_, err := b.Release(t.Context(), enhanced.ReleaseRequest{LockID: given.ID, Force: true, Actor: "user:admin", Reason: "a test"})
			return err
		}, 2},
		"it is transferred": {func(b *backends.RedisBackend, given *enhanced.EnhancedLock) error {
			return b.TransferLock(t.Context(), given.ID, "user:eve")
		}, 2},
		"it is freed with others": {func(b *backends.RedisBackend, _ *enhanced.EnhancedLock) error {
			_, err := b.ReplaceAll(t.Context(), "org/app", enhanced.PullOwner("github.com", "org/app", 5), nil)
			return err
		}, 2},
		"all are released": {func(b *backends.RedisBackend, _ *enhanced.EnhancedLock) error {
			_, err := b.ReleaseByPull(t.Context(), "org/app", 5, "user:admin")
			return err
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), queueOn())
			given, answer := givenAndWaits(t, b)
			require.NoError(t, c.end(b, given))
			require.Equal(t, c.left, waiting(t, b))
			backendtest.RequireSound(t, b)
			lock, err := b.LookupLock(t.Context(), given.Resource)
			if err == nil {
				require.Equal(t, "user:eve", lock.Owner)
			} else {
				require.ErrorIs(t, err, enhanced.ErrLockNotFound)
			}
			_, err = b.ReleaseByPull(t.Context(), "org/app", 5, "user:admin")
			require.NoError(t, err)
			require.Error(t, <-answer)
			backendtest.RequireSound(t, b)
		})
	}
}

// givenAndWaits has pull request 5 be given a lock, and wait in a set by the request that
// got it.
func givenAndWaits(t *testing.T, b *backends.RedisBackend) (given *enhanced.EnhancedLock, answer <-chan error) {
	t.Helper()
	holder, err := b.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), by("org/app", "b", "ann"))
	require.NoError(t, err)
	set := requestsOf("a", "b")
	first := *set[0]
	first.Detached = true
	require.False(t, try(t, b, &first))
	require.NoError(t, b.ReleaseLock(t.Context(), holder.ID))
	given, err = b.LookupLock(t.Context(), holder.Resource)
	require.NoError(t, err)
	require.Equal(t, ownerOf(5), given.Owner)
	answer = waitsForSet(t, b, set)
	backendtest.RequireSound(t, b)
	return given, answer
}

// A repair of what leads to a lock leaves the waiter of the request that got it, which
// has the same field as the request.
func TestRedisRepairLeavesWhoWaitsByTheSameRequest(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	given, answer := givenAndWaits(t, b)
	state := "atlantis:lock:{" + enhanced.RepositoryTag("org/app") + "}:state"
	require.NoError(t, client.HDel(t.Context(), state, "i"+strconv.FormatInt(given.Version, 10)).Err())
	repaired, err := b.Repair(t.Context(), "user:admin", "a test")
	require.NoError(t, err)
	require.Len(t, repaired, 1)
	require.Equal(t, enhanced.RuleIDMissing, repaired[0].Rule)
	backendtest.RequireSound(t, b)
	require.Equal(t, 2, waiting(t, b))

	require.NoError(t, b.ReleaseLock(t.Context(), given.ID))
	_, err = b.ReleaseByPull(t.Context(), "org/app", 5, "user:admin")
	require.NoError(t, err)
	require.Error(t, <-answer)
	backendtest.RequireSound(t, b)
}

// Where many wait, a walk along who waits for whom meets an owner's locks on the way to
// what it waits for. It reads over a few thousand, and leaves more to the detector.
func TestRedisPreventionBesideManyLocks(t *testing.T) {
	t.Parallel()
	for locks, waiters := range map[int]int{250: 1, 4000: 2} {
		t.Run(fmt.Sprint(locks), func(t *testing.T) {
			t.Parallel()
			b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), preventingOn())
			for _, r := range []*enhanced.EnhancedLockRequest{place(6, "z", 0), place(8, "many/000", 0)} {
				require.True(t, try(t, b, r))
			}
			set := func(number int, prefix string, from, count int) (set []*enhanced.EnhancedLockRequest) {
				for i := range count {
					r := place(number, fmt.Sprintf("%s/%03d", prefix, from+i), 0)
					r.Detached = false
					set = append(set, r)
				}
				return set
			}
			for from := 0; from < locks; from += 250 {
				_, err := b.AcquireAll(t.Context(), set(5, "a", from, 250), false)
				require.NoError(t, err)
			}
			require.False(t, try(t, b, place(5, "z", 0))) // its place comes after all locks
			many := waitsForSet(t, b, set(7, "many", 0, 500))
			require.False(t, try(t, b, place(6, "a/000", 0)), "a cycle")
			require.Equal(t, waiters+500, waiting(t, b))
			_, err := b.ReleaseByPull(t.Context(), "org/app", 7, "user:admin")
			require.NoError(t, err)
			require.Error(t, <-many)
		})
	}
}
