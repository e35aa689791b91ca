package backends_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// requestsOf asks for locks of pull request 5 on paths.
func requestsOf(paths ...string) (set []*enhanced.EnhancedLockRequest) {
	for _, path := range paths {
		r := request(stockLock("org/app", 5, path))
		r.ID = "of " + path
		set = append(set, r)
	}
	return set
}

func requireSound(t *testing.T, b *backends.RedisBackend) {
	t.Helper()
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// A set whose reply is lost is asked for again, and is locked once.
func TestRedisSetsLostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	var lost atomic.Int32
	config := retrying(10)
	b := openRedis(t, lossyClient(t, server, func() bool { return lost.Add(-1) >= 0 }), config)
	m := enhanced.NewEnhancedLockManager(b, config, nil)
	require.NoError(t, m.GetHealth(t.Context()))
	lost.Store(2)
	locks, err := m.LockAll(t.Context(), requestsOf("a", "b", "c"))
	require.NoError(t, err)
	require.Len(t, locks, 3)
	require.EqualValues(t, 2, retries(t, m))
	lost.Store(1)
	_, err = b.AcquireAll(t.Context(), requestsOf("a", "b", "c"), false)
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	lost.Store(3) // the first one names what is to be freed
	owner := requestsOf("a")[0].Owner()
	replaced, err := m.ReplaceLocks(t.Context(), owner, requestsOf("b", "d"))
	require.NoError(t, err)
	require.Equal(t, locks[1].ID, replaced.Held[0].ID)
	page, err := b.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	require.Len(t, page.Records, 3+1+2, "each change was made once")
	requireSound(t, b)
}

func TestRedisSetsBesideStock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := share(t, mirroring())
	mine, other := stockLock("org/app", 5, "mine"), stockLock("org/app", 6, "other")
	s.stockTakes(t, mine)
	s.stockTakes(t, other)
	require.NoError(t, s.client.Set(ctx, "pr/org/app/old/x/default", stockText(t, stockLock("org/app", 7, "old/x")), 0).Err())
	_, err := s.ours.AcquireAll(ctx, requestsOf("a", "other", "old/x", "mine"), false)
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	for _, text := range []string{"3 of 4", "pull request 5", "pull request 6", "pull request 7"} {
		require.ErrorContains(t, err, text)
	}
	// What stock has locked for the pull request is kept, and freed.
	owner := requestsOf("mine")[0].Owner()
	replaced, err := s.ours.ReplaceAll(ctx, "org/app", owner, requestsOf("mine", "a"))
	require.NoError(t, err)
	require.Len(t, replaced.Taken, 1)
	there, err := s.stock.GetLock(stockLock("org/app", 5, "a").Project, "default")
	require.NoError(t, err)
	require.Equal(t, 5, there.Pull.Num, "stock sees what was taken")
	replaced, err = s.ours.ReplaceAll(ctx, "org/app", owner, requestsOf("b"))
	require.NoError(t, err)
	require.Len(t, replaced.Freed, 2)
	for _, path := range []string{"a", "mine"} {
		s.stockTakes(t, stockLock("org/app", 8, path))
	}
	// Stock unlocks what a set has locked.
	_, err = s.stock.Unlock(stockLock("org/app", 5, "b").Project, "default")
	require.NoError(t, err)
	locks, err := s.ours.AcquireAll(ctx, func() []*enhanced.EnhancedLockRequest {
		set := requestsOf("b", "c")
		for _, r := range set {
			r.ID = ""
		}
		return set
	}(), false)
	require.NoError(t, err)
	require.Len(t, locks, 2)
	requireSound(t, s.ours)
}

// In stock's form two projects can be one.
func TestRedisSetsWithTheSameKey(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := share(t, mirroring())
	one, same := stockLock("org/app", 5, "a/b"), stockLock("org/app", 5, "a")
	one.Workspace, same.Workspace, same.Project.ProjectName = "c", "b", "c/"
	set := []*enhanced.EnhancedLockRequest{request(one), request(same)}
	_, err := s.ours.AcquireAll(ctx, set, false)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	held := s.oursTakes(t, one)
	same.Pull.Num = 6
	other := requestsOf("x")[0]
	other.Pull.Num = 6
	_, err = s.ours.AcquireAll(ctx, []*enhanced.EnhancedLockRequest{request(same), other}, false)
	refusal := (*enhanced.LockError)(nil)
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, enhanced.ErrCodeLockExists, refusal.Code)
	require.Equal(t, held.ID, refusal.Holder.ID)
}

// A server without memory takes nothing of a set, and frees what a set gives up.
func TestRedisSetsOnAFullServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	_, err := b.AcquireAll(ctx, requestsOf("a", "b"), false)
	require.NoError(t, err)
	free := fillMemory(t, client)
	_, err = b.AcquireAll(ctx, requestsOf("c", "d"), false)
	require.ErrorIs(t, err, enhanced.ErrBackend)
	owner := requestsOf("a")[0].Owner()
	_, err = b.ReplaceAll(ctx, "org/app", owner, requestsOf("a", "c"))
	require.ErrorIs(t, err, enhanced.ErrBackend)
	locks, err := b.ListLocks(ctx)
	require.NoError(t, err)
	require.Len(t, locks, 2)
	replaced, err := b.ReplaceAll(ctx, "org/app", owner, requestsOf("a"))
	require.NoError(t, err)
	require.Len(t, replaced.Freed, 1)
	free()
	requireSound(t, b)
}

// One damaged record is in the way of the set that wants it, and of no other.
func TestRedisSetsBesideDamage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	_, err := b.AcquireAll(ctx, requestsOf("a", "b"), false)
	require.NoError(t, err)
	state := "atlantis:lock:{" + enhanced.RepositoryTag("org/app") + "}:state"
	require.NoError(t, client.HSet(ctx, state, "l"+resourceOf(stockLock("org/app", 5, "a")).Key(), "rubbish").Err())
	other := func(path string) *enhanced.EnhancedLockRequest { return by("org/app", path, "ann") }
	_, err = b.AcquireAll(ctx, []*enhanced.EnhancedLockRequest{other("a"), other("c")}, false)
	require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	_, err = b.AcquireAll(ctx, []*enhanced.EnhancedLockRequest{other("c"), other("d")}, false)
	require.NoError(t, err)
	replaced, err := b.ReplaceAll(ctx, "org/app", requestsOf("a")[0].Owner(), nil)
	require.NoError(t, err)
	require.Len(t, replaced.Freed, 1)
}

// Who waits for one of a set's resources gets what is freed, and nothing that is
// kept or that the set has taken before.
func TestRedisSetsBesideWaiters(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	b := openRedis(t, client, config)
	owner := requestsOf("a")[0].Owner()
	_, err := b.AcquireAll(ctx, requestsOf("kept", "freed", "x"), true)
	require.NoError(t, err)
	answers := make(chan string, 3)
	for _, path := range []string{"kept", "freed", "x"} {
		go func() {
			lock, err := b.AcquireLock(ctx, by("org/app", path, "ann"))
			if err != nil {
				answers <- err.Error()
				return
			}
			answers <- lock.Resource.Path
		}()
	}
	waiting := func(n int) func() bool {
		return func() bool {
			status, err := b.GetQueueStatus(ctx)
			require.NoError(t, err)
			return status.Size == n
		}
	}
	backendtest.Eventually(t, "three wait", waiting(3))
	_, err = b.AcquireAll(ctx, []*enhanced.EnhancedLockRequest{by("org/app", "kept", "bob"), by("org/app", "y", "bob")}, false)
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	replaced, err := b.ReplaceAll(ctx, "org/app", owner, requestsOf("kept", "x", "new"))
	require.NoError(t, err)
	require.Len(t, replaced.Freed, 1)
	require.Equal(t, "freed", <-answers)
	require.True(t, waiting(2)())
	replaced, err = b.ReplaceAll(ctx, "org/app", owner, requestsOf("kept"))
	require.NoError(t, err)
	require.Len(t, replaced.Freed, 2)
	require.Equal(t, "x", <-answers)
	require.True(t, waiting(1)())
	requireSound(t, b)
	_, err = b.ReplaceAll(ctx, "org/app", owner, nil)
	require.NoError(t, err)
	require.Equal(t, "kept", <-answers)
}

// Many leases that are over at once are ended in steps of their own.
func TestRedisSetsOverDueLeases(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	var leased, set []*enhanced.EnhancedLockRequest
	for i := range 250 {
		r := by("org/app", fmt.Sprint("p", i), "ann")
		r.Timeout = 50 * time.Millisecond
		leased = append(leased, r)
		set = append(set, requestsOf(fmt.Sprint("p", i))...)
	}
	_, err := b.AcquireAll(ctx, leased, false)
	require.NoError(t, err)
	backendtest.Eventually(t, "the leases end", func() bool {
		_, err := b.AcquireAll(ctx, set, false)
		return err == nil
	})
	requireSound(t, b)
}
