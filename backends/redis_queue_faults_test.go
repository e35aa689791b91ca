package backends_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// A waiter does not need to read what is damaged about the lock that it waits
// for: it stays where it is, and gets its turn.
func TestRedisQueueBehindADamagedLock(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := queueOn()
	config.PreserveLegacyFormat = false
	b := openRedis(t, client, config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	require.NoError(t, client.HSet(t.Context(), repositoryKey("org/app", "state"), "d"+lock.Resource.Key(), "{damaged").Err())
	answers := waits(t, b, by("org/app", ".", "bob"))
	_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
	require.NoError(t, err)
	require.NoError(t, <-answers)
}

// A hand-over that can't write the end of the new lease does nothing at all.
func TestRedisQueueHandOverFailsAsAWhole(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	first := by("org/app", ".", "ann")
	first.Timeout = enhanced.NoTimeout
	lock, err := b.AcquireLock(t.Context(), first)
	require.NoError(t, err)
	next := by("org/app", ".", "bob")
	next.Timeout = time.Hour
	answers := waits(t, b, next)
	deadlines := repositoryKey("org/app", "deadlines")
	require.NoError(t, client.Del(t.Context(), deadlines).Err())
	require.NoError(t, client.Set(t.Context(), deadlines, "x", 0).Err())
	state := repositoryKey("org/app", "state")
	before, err := client.HGetAll(t.Context(), state).Result()
	require.NoError(t, err)
	require.ErrorContains(t, b.ReleaseLock(t.Context(), lock.ID), "WRONGTYPE")
	after, err := client.HGetAll(t.Context(), state).Result()
	require.NoError(t, err)
	delete(before, "alive")
	delete(after, "alive")
	require.Equal(t, before, after)
	require.NoError(t, client.Del(t.Context(), deadlines).Err())
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
}

// A process stays alive while the server has no memory left.
func TestRedisQueueAliveOutOfMemory(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := queueOn()
	config.WaiterLiveness = time.Second
	b := openRedis(t, client, config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"))
	state := repositoryKey("org/app", "state")
	before, err := client.HGet(t.Context(), state, "alive").Result()
	require.NoError(t, err)
	letGo := fillMemory(t, client)
	defer letGo()
	backendtest.Eventually(t, "it is heard of", func() bool {
		now, err := client.HGet(t.Context(), state, "alive").Result()
		return err == nil && now != before
	})
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
}

// A server that does not answer keeps no first waiter beyond its context, nor
// those behind it.
func TestRedisQueueListenHonoursContexts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	options := server.Options()
	options.ReadTimeout = 10 * serverPatience // nothing else ends a call
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	b := openRedis(t, client, queueOn())
	_, _, err := b.TryAcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	server.Signal(redistest.Stop)
	defer server.Signal(redistest.Continue)
	answers := make(chan error, 2)
	for _, user := range []string{"bob", "eve"} {
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := b.AcquireLock(ctx, by("org/app", ".", user))
			answers <- err
		}()
	}
	for range 2 {
		select {
		case err := <-answers:
			require.ErrorIs(t, err, context.DeadlineExceeded)
		case <-time.After(serverPatience):
			require.Fail(t, "a call outlives its context")
		}
	}
}

// Which of two hosts' pull requests a close means is not guessed, be it that one
// of them only waits.
func TestRedisQueueOfTwoHosts(t *testing.T) {
	t.Parallel()
	b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), queueOn())
	of := func(host string) *enhanced.EnhancedLockRequest {
		r := by("org/app", ".", "ann")
		r.Pull = &models.PullRequest{Num: 7, BaseRepo: models.Repo{FullName: "org/app", VCSHost: models.VCSHost{Hostname: host}}}
		return r
	}
	lock, err := b.AcquireLock(t.Context(), of("github.com"))
	require.NoError(t, err)
	answers := waits(t, b, of("gitlab.com"))
	_, err = b.ReleaseByPull(t.Context(), "org/app", 7, "system:test")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.Equal(t, 1, waiting(t, b))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
	locks, err := b.ReleaseByPull(t.Context(), "org/app", 7, "system:test")
	require.NoError(t, err)
	require.Len(t, locks, 1)
}

// A request that another process sends again is that one's from then on: the
// call that has waited for it ends, and takes nothing away.
func TestRedisQueueOfARequestSentElsewhere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	one, two := openRedis(t, server.Client(), queueOn()), openRedis(t, server.Client(), queueOn())
	lock, err := one.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	r := by("org/app", ".", "bob")
	r.ID = "again"
	before := waits(t, one, r)
	after := make(chan error, 1)
	go func() {
		_, err := two.AcquireLock(t.Context(), r)
		after <- err
	}()
	require.ErrorIs(t, <-before, enhanced.ErrLockExpired)
	require.Equal(t, 1, waiting(t, two))
	require.NoError(t, one.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-after)
	held, err := two.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, "user:bob", held.Owner)
}

// So it is when the first call has not heard of that.
func TestRedisQueueOfARequestSentElsewhereUnheard(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	admin := server.Client()
	client := muteClient(t, server)
	one, two := openRedis(t, client, queueOn()), openRedis(t, server.Client(), queueOn())
	lock, err := two.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	r := by("org/app", ".", "bob")
	r.ID = "again"
	ctx, cancel := context.WithCancel(t.Context())
	before, after := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := one.AcquireLock(ctx, r)
		before <- err
	}()
	backendtest.Eventually(t, "it waits", func() bool { return waiting(t, two) == 1 })
	state := repositoryKey("org/app", "state")
	first, err := admin.HGet(t.Context(), state, "ragain").Result()
	require.NoError(t, err)
	go func() {
		_, err := two.AcquireLock(t.Context(), r)
		after <- err
	}()
	backendtest.Eventually(t, "it is the other's", func() bool {
		now, err := admin.HGet(t.Context(), state, "ragain").Result()
		return err == nil && now != first
	})
	cancel()
	// It may have seen by itself that the request waits elsewhere.
	err = <-before
	require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, enhanced.ErrLockExpired), "%v", err)
	require.Equal(t, 1, waiting(t, two))
	require.NoError(t, two.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-after)
}

// A call that has not heard why it waits no more learns that its owner has the lock.
func TestRedisQueueOfAnOwnerUnheard(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := muteClient(t, server)
	b := openRedis(t, client, queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := make(chan error, 3)
	for range cap(answers) {
		go func() {
			_, err := b.AcquireLock(t.Context(), by("org/app", ".", "bob"))
			answers <- err
		}()
	}
	backendtest.Eventually(t, "they wait", func() bool { return waiting(t, b) == cap(answers) })
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	granted := 0
	for range cap(answers) {
		if err := <-answers; err == nil {
			granted++
		} else {
			require.ErrorIs(t, err, enhanced.ErrLockExists)
		}
	}
	require.Equal(t, 1, granted)
}

// To refuse a request, a full queue is not read waiter by waiter.
func TestRedisQueueCommandsOfARefusal(t *testing.T) {
	t.Parallel()
	const many = 500
	client := redistest.Start(t, redistest.Options{}).Client()
	config := queueOn()
	config.MaxQueueSize = many
	b := openRedis(t, client, config)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := b.AcquireLock(ctx, by("org/app", ".", "ann"))
	require.NoError(t, err)
	for i := range many {
		go func() {
			_, _ = b.AcquireLock(ctx, by("org/app", ".", fmt.Sprint("u", i))) //nolint:errcheck // it waits until the end
		}()
	}
	backendtest.Eventually(t, "all wait", func() bool { return waiting(t, b) == many })
	before := commands(t, client)
	_, err = b.AcquireLock(ctx, by("org/app", ".", "eve"))
	require.ErrorIs(t, err, enhanced.ErrQueueFull)
	used := commands(t, client) - before
	// A look at the resource asks for each waiter, and can come between.
	if used >= many {
		before = commands(t, client)
		_, err = b.AcquireLock(ctx, by("org/app", ".", "eve"))
		require.ErrorIs(t, err, enhanced.ErrQueueFull)
		used = commands(t, client) - before
	}
	require.Less(t, used, 60)
}
