package backends_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// Faults that other lock systems had with those who wait on a Redis, as far as no
// other test is about them; docs/peers.md lists all.

// aliveUntil is the time, in the server's microseconds, until which the processes
// that wait count as alive.
func aliveUntil(t *testing.T, client *redis.Client) string {
	t.Helper()
	alive, err := client.HGet(t.Context(), repositoryKey("org/app", "state"), "alive").Result()
	require.NoError(t, err)
	return alive
}

// Who waits for longer than a dead process keeps its places still has its own. As
// in redisson/redisson#3004: live waiters were put out after five minutes.
func TestRedisQueueOfALongWait(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := queueOn()
	config.WaiterLiveness = shortLiveness
	b := openRedis(t, client, config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"))
	before, signs := aliveUntil(t, client), 0
	backendtest.Eventually(t, "it has waited twice as long as the dead may", func() bool {
		if now := aliveUntil(t, client); now != before {
			before, signs = now, signs+1 // one in a quarter of WaiterLiveness
		}
		return signs >= 8
	})
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
}

// The only client, whose calls end while the server pauses, goes on after that. As
// with rueidislock v1.0.79 (redis/rueidis): the call slept for ever, since nothing
// told it of its own key's end.
func TestRedisQueueOfOneClientAndAServerThatPauses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	options := server.Options()
	options.ReadTimeout, options.MaxRetries = 100*time.Millisecond, -1
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	b, admin := openRedis(t, client, queueOn()), server.Client()
	backendtest.Eventually(t, "it answers in time", func() bool { return b.HealthCheck(t.Context()) == nil })
	failed := 0
	for round := 0; failed < 3; round++ {
		require.Less(t, round, 1000, "no call met a pause; the run is void")
		require.NoError(t, admin.Do(t.Context(), "client", "pause", "250", "all").Err())
		lock, err := b.AcquireLock(t.Context(), by("org/app", ".", fmt.Sprint("u", round)))
		if err != nil {
			require.ErrorIs(t, err, enhanced.ErrBackend)
			failed++
		} else {
			require.NoError(t, releaseSurely(t, b, lock))
		}
	}
	// Whatever the calls have left behind is gone by itself.
	backendtest.Eventually(t, "nobody holds it", func() bool {
		locks, err := b.ListLocks(t.Context())
		return err == nil && len(locks) == 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	round := 0
	backendtest.Eventually(t, "it is served again", func() bool {
		round++ // a busy machine can be too late by itself
		_, err := b.AcquireLock(ctx, by("org/app", ".", fmt.Sprint("last", round)))
		return err == nil
	})
}

// releaseSurely gives a lock back to a server that answers late.
func releaseSurely(t *testing.T, b *backends.RedisBackend, lock *enhanced.EnhancedLock) (err error) {
	t.Helper()
	backendtest.Eventually(t, "the lock is given back", func() bool {
		err = b.ReleaseLock(t.Context(), lock.ID)
		return err == nil
	})
	return err
}

// A request whose answer, that it waits, was lost leaves no place behind that gets
// the lock and that nobody knows of. As in apache/curator#600 and #583, and in
// redisson/redisson#5019.
func TestRedisQueueOfALostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b := openRedis(t, server.Client(), queueOn())
	var lose atomic.Bool
	admin := server.Client()
	cut := openRedis(t, lossyClient(t, server, func() bool {
		waiters, err := strconv.Atoi(countOf(context.WithoutCancel(t.Context()), admin, repositoryKey("org/app", "state"), "waiters"))
		return lose.Load() && err == nil && waiters > 0
	}), queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	lose.Store(true)
	_, err = cut.AcquireLock(t.Context(), by("org/app", ".", "bob"))
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	lose.Store(false)
	page, err := b.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(page.Records, func(r *enhanced.LogRecord) bool {
		return r.Type == enhanced.EventQueued && r.Waiter == "user:bob"
	}), "the server has not done what it was asked; the run is void")
	backendtest.Eventually(t, "it has no place any more", func() bool { return waiting(t, b) == 0 })
	answers := waits(t, b, by("org/app", ".", "eve"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
	requireSound(t, b)
}

// When all is deleted, those who wait are told, and their calls end. As in
// redis/rueidis 4e74bce: a call went on asking when a message said that all is gone.
func TestRedisQueueThatIsFlushed(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	_, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"), by("org/app", ".", "eve"))
	require.NoError(t, client.FlushAll(t.Context()).Err())
	backendtest.Eventually(t, "both are told", func() bool { return len(answers) == 2 })
	for range 2 {
		requireLost(t, <-answers)
	}
	_, err = b.AcquireLock(t.Context(), by("org/app", ".", "kim"))
	require.NoError(t, err)
}

// A server that forgets its scripts, as one does that takes over, serves those who
// wait. As in redisson/redisson 32df429bd.
func TestRedisQueueOfAServerThatForgetsItsScripts(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	leaves, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := b.AcquireLock(leaves, by("org/app", ".", "kim"))
		left <- err
	}()
	backendtest.Eventually(t, "it waits", func() bool { return waiting(t, b) == 1 })
	require.NoError(t, client.ScriptFlush(t.Context()).Err())
	answers := waits(t, b, by("org/app", ".", "bob"))
	require.NoError(t, client.ScriptFlush(t.Context()).Err())
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	backendtest.Eventually(t, "it has left", func() bool { return waiting(t, b) == 1 })
	require.NoError(t, client.ScriptFlush(t.Context()).Err())
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
	requireSound(t, b)
}

// Many who wait and whose process has died cost one hand-over, not a while each.
// As in redisson/redisson#1353: five seconds each.
func TestRedisQueueOfManyDead(t *testing.T) {
	t.Parallel()
	const many = 90 // fewer than one step passes over
	server := redistest.Start(t, redistest.Options{})
	config := queueOn()
	config.WaiterLiveness = shortLiveness
	b := openRedis(t, server.Client(), config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	proxy := redistest.StartProxy(t, server.Addr)
	client := cutOffClient(t, proxy)
	dead := openRedis(t, client, config)
	answers := make(chan error, many)
	for i := range many {
		go func() {
			_, err := dead.AcquireLock(context.WithoutCancel(t.Context()), by("org/app", ".", fmt.Sprint("u", i)))
			answers <- err
		}()
	}
	backendtest.Eventually(t, "all wait", func() bool { return waiting(t, b) == many })
	proxy.Cut()
	backendtest.Eventually(t, "they count as dead", func() bool { return waiting(t, b) == 0 })
	alive := waits(t, b, by("org/app", ".", "kim"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	held, err := b.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, "user:kim", held.Owner, "it has the lock as soon as that was given back")
	require.NoError(t, <-alive)
	page, err := b.ReadLog(t.Context(), "org/app", 0, 1000)
	require.NoError(t, err)
	passedOver := 0
	for _, r := range page.Records {
		if r.Type == enhanced.EventCancelled && strings.HasPrefix(r.Waiter, "user:u") {
			require.Equal(t, enhanced.SystemStore, r.Actor)
			passedOver++
		}
	}
	require.Equal(t, many, passedOver)
	proxy.Heal()
	for range many {
		requireLost(t, <-answers)
	}
}
