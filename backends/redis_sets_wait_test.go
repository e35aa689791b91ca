package backends_test

import (
	"context"
	"slices"
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

// reserving has sets that are old from the start.
func reserving() *enhanced.EnhancedConfig {
	config := queueOn()
	config.SetReserveAfter = time.Nanosecond
	return config
}

// waitsForSet starts a call that waits for a set, and returns what it answers.
func waitsForSet(t *testing.T, b *backends.RedisBackend, set []*enhanced.EnhancedLockRequest) <-chan error {
	t.Helper()
	answer, before := make(chan error, 1), waiting(t, b)
	go func() {
		_, err := b.AcquireAll(context.WithoutCancel(t.Context()), set, true)
		answer <- err
	}()
	backendtest.Eventually(t, "the set waits", func() bool { return waiting(t, b) == before+len(set) })
	return answer
}

// A set whose process has died is passed over once it counts as dead, and what was kept
// for it goes on: to a call that waits, which looks after it, and to who has none by the
// next clean-up.
func TestRedisSetsOfADeadProcess(t *testing.T) {
	t.Parallel()
	for name, behind := range map[string]func(t *testing.T, b *backends.RedisBackend) (granted func() bool){
		"before a call": func(t *testing.T, b *backends.RedisBackend) func() bool {
			t.Helper()
			answer := waits(t, b, by("org/app", "b", "bob"))
			return func() bool { return <-answer == nil }
		},
		"before a place": func(t *testing.T, b *backends.RedisBackend) func() bool {
			t.Helper()
			lock := stockLock("org/app", 6, "b")
			r := request(lock)
			r.Detached = true
			_, acquired, err := b.TryAcquireLock(t.Context(), r)
			require.NoError(t, err)
			require.False(t, acquired)
			return func() bool {
				_, err := b.CleanupExpiredLocks(t.Context())
				require.NoError(t, err)
				_, err = b.LookupLock(t.Context(), resourceOf(lock))
				return err == nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			config := reserving()
			config.WaiterLiveness = shortLiveness
			b := openRedis(t, server.Client(), config)
			_, err := b.AcquireLock(t.Context(), by("org/app", "a", "ann"))
			require.NoError(t, err)
			proxy := redistest.StartProxy(t, server.Addr)
			client := cutOffClient(t, proxy)
			dead := waitsForSet(t, openRedis(t, client, config), requestsOf("a", "b", "c"))
			granted := behind(t, b)
			proxy.Cut()
			backendtest.Eventually(t, "what was kept for the dead set is granted", granted)
			require.Zero(t, waiting(t, b))
			backendtest.RequireSound(t, b)
			proxy.Heal()
			requireLost(t, <-dead)
		})
	}
}

// A set that another process sends again is that one's from then on.
func TestRedisSetsSentElsewhere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	one, two := openRedis(t, server.Client(), queueOn()), openRedis(t, server.Client(), queueOn())
	lock, err := one.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	before := waitsForSet(t, one, requestsOf("a", "b", "c"))
	after := make(chan error, 1)
	go func() {
		_, err := two.AcquireAll(t.Context(), requestsOf("a", "b", "c"), true)
		after <- err
	}()
	require.ErrorIs(t, <-before, enhanced.ErrLockExpired)
	require.Equal(t, 3, waiting(t, two))
	require.NoError(t, one.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-after)
	locks, err := one.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 3)
	requireSound(t, one)
}

// muted is a client that may not listen to the channel of its turns.
func muted(t *testing.T, server *redistest.Server) *redis.Client {
	t.Helper()
	client := muteClient(t, server)
	return client
}

// Without the channel a set looks for itself. Where one of its locks has ended by then,
// the others are given back.
func TestRedisSetsWithoutPubSub(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b, other := openRedis(t, muted(t, server), queueOn()), openRedis(t, server.Client(), queueOn())
	granted, ended := false, false
	for round := 0; round < 20 && !(granted && ended); round++ {
		lock, err := other.AcquireLock(t.Context(), by("org/app", "a", "ann"))
		require.NoError(t, err)
		set := requestsOf("a", "b", "c")
		for _, r := range set {
			r.ID = ""
		}
		answer := waitsForSet(t, b, set)
		require.NoError(t, other.ReleaseLock(t.Context(), lock.ID))
		if granted {
			_, err := other.Release(t.Context(), enhanced.ReleaseRequest{
				Resource: resourceOf(stockLock("org/app", 5, "b")), Force: true, Actor: "user:admin", Reason: "a test",
			})
			require.NoError(t, err)
		}
		err = <-answer
		if granted && err != nil { // it has not looked before
			require.ErrorIs(t, err, enhanced.ErrLockExpired)
			locks, err := other.ListLocks(t.Context())
			require.NoError(t, err)
			require.Empty(t, locks)
			ended = true
			continue
		}
		require.NoError(t, err)
		granted = true
		_, err = other.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
		require.NoError(t, err)
	}
	require.True(t, granted && ended)
	requireSound(t, other)
}

// A set waits for what stock has locked, too, and stock sees what it gets, whichever
// of its resources is freed.
func TestRedisSetsWaitBesideStock(t *testing.T) {
	t.Parallel()
	config := mirroring()
	config.EnablePriorityQueue = true
	s := share(t, config)
	other := stockLock("org/app", 6, "other")
	s.stockTakes(t, other)
	held := s.oursTakes(t, stockLock("org/app", 7, "held"))
	answer := waitsForSet(t, s.ours, requestsOf("a", "other", "held"))
	// Stock comes first once more: on what is free, until the set has it.
	first := stockLock("org/app", 8, "a")
	s.stockTakes(t, first)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), held.ID))
	_, err := s.stock.Unlock(other.Project, other.Workspace)
	require.NoError(t, err)
	_, err = s.ours.LookupLock(t.Context(), resourceOf(other))
	require.ErrorIs(t, err, enhanced.ErrLockNotFound, "the last one that we know of is free")
	require.Equal(t, 3, waiting(t, s.ours))
	_, err = s.stock.Unlock(first.Project, first.Workspace)
	require.NoError(t, err)
	require.NoError(t, <-answer)
	for _, path := range []string{"a", "other", "held"} {
		there, err := s.stock.GetLock(stockLock("org/app", 5, path).Project, "default")
		require.NoError(t, err)
		require.NotNil(t, there)
		require.Equal(t, 5, there.Pull.Num, "stock sees %s", path)
	}
	requireSound(t, s.ours)
}

// With replicas that must have a grant, a set's is confirmed before it is told.
func TestRedisSetsMinReplicasAck(t *testing.T) {
	t.Parallel()
	client := redistest.StartSentinel(t, redistest.Options{}).Client()
	client.AddHook(patientReplicas(new(atomic.Bool)))
	config := queueOn()
	config.RedisMinReplicasAck = 1
	b := openRedis(t, client, config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	answer := waitsForSet(t, b, requestsOf("a", "b"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answer)
	requireSound(t, b)
}

// A server without memory takes no set into its queues, and still grants one that is.
func TestRedisSetsWaitOnAFullServer(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	answer := waitsForSet(t, b, requestsOf("a", "b"))
	free := fillMemory(t, client)
	defer free()
	_, err = b.AcquireAll(t.Context(), []*enhanced.EnhancedLockRequest{by("org/app", "a", "eve"), by("org/app", "c", "eve")}, true)
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.Equal(t, 2, waiting(t, b))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answer)
	requireSound(t, b)
}

// A closed backend takes its sets out of the queues.
func TestRedisSetsClose(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b, other := openRedis(t, server.Client(), reserving()), openRedis(t, server.Client(), reserving())
	_, err := other.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	answer := waitsForSet(t, b, requestsOf("a", "b"))
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-answer, enhanced.ErrClosed)
	_, acquired, err := other.TryAcquireLock(t.Context(), by("org/app", "b", "bob"))
	require.NoError(t, err)
	require.True(t, acquired, "nothing is kept for a set whose call has gone")
	require.Zero(t, waiting(t, other))
	requireSound(t, other)
}

// Each damage to a set that waits is found and repaired.
func TestRedisSetsCorruptions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	state, queue := repositoryKey("org/app", "state"), repositoryKey("org/app", "queue")
	lock, err := b.AcquireLock(ctx, by("org/app", "a", "ann"))
	require.NoError(t, err)
	answer := waitsForSet(t, b, requestsOf("a", "b"))
	aged, err := client.ZRangeArgs(ctx, redis.ZRangeArgs{Key: queue, Start: "[w", Stop: "(x", ByLex: true}).Result()
	require.NoError(t, err)
	require.Len(t, aged, 2)
	for rule, damage := range map[string]func() error{
		enhanced.RuleQueueMissing: func() error { return client.ZRem(ctx, queue, aged[1]).Err() },
		enhanced.RuleQueueCount:   func() error { return setCount(ctx, client, state, "sets", 7) },
		enhanced.RuleQueueStray:   func() error { return client.ZAdd(ctx, queue, redis.Z{Member: aged[0] + "x"}).Err() },
	} {
		require.NoError(t, damage())
		violations, err := b.Verify(ctx)
		require.NoError(t, err)
		require.Len(t, violations, 1, rule)
		require.Equal(t, rule, violations[0].Rule)
		repaired, err := b.Repair(ctx, "user:admin", "a test")
		require.NoError(t, err)
		require.Len(t, repaired, 1)
		requireSound(t, b)
	}
	// Of what is left of a damaged set nothing is granted.
	require.NoError(t, client.HDel(ctx, state, "rof b").Err())
	require.NoError(t, b.ReleaseLock(ctx, lock.ID))
	require.ErrorIs(t, <-answer, enhanced.ErrLockExpired)
	_, err = b.Repair(ctx, "user:admin", "a test")
	require.NoError(t, err)
	locks, err := b.ListLocks(ctx)
	require.NoError(t, err)
	require.Empty(t, locks)
	requireSound(t, b)
}

// A set that reaches the server after its call has gone gets nothing.
func TestRedisSetsThatComeLate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client, held, letGo, done := server.Client(), make(chan struct{}), make(chan struct{}), make(chan struct{})
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if slices.Contains(cmd.Args(), any("all")) && cmd.Name() == "evalsha" {
			close(held)
			<-letGo
			defer close(done)
		}
		return next(context.WithoutCancel(ctx), cmd)
	}))
	b, other := openRedis(t, client, queueOn()), openRedis(t, server.Client(), queueOn())
	lock, err := other.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	require.NoError(t, b.HealthCheck(t.Context()))
	// So that the server knows the script.
	_, err = other.AcquireAll(t.Context(), requestsOf("x"), false)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := b.AcquireAll(ctx, requestsOf("a", "b"), true)
		answer <- err
	}()
	<-held
	cancel()
	require.ErrorIs(t, <-answer, enhanced.ErrOutcomeUnknown)
	state := repositoryKey("org/app", "state")
	backendtest.Eventually(t, "the request is marked as ended", func() bool {
		return server.Client().HExists(t.Context(), state, "rof a").Val()
	})
	close(letGo)
	<-done
	require.Zero(t, waiting(t, other))
	require.NoError(t, other.ReleaseLock(t.Context(), lock.ID))
	locks, err := other.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1)
	requireSound(t, other)
}

// Sets, and stock's copies of their locks, need no more than the rights of the guide.
func TestRedisSetsLeastRights(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t, documentedUser(t))})
	options := server.Options()
	options.Username, options.Password = leastUser, leastPassword
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	config := mirroring()
	config.EnablePriorityQueue = true
	b := openRedis(t, client, config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", "a", "ann"))
	require.NoError(t, err)
	answer := waitsForSet(t, b, requestsOf("a", "b"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answer)
	for _, r := range requestsOf("a", "b") {
		require.NotEmpty(t, server.Client().Get(t.Context(), "pr/"+enhanced.ProjectResource(r.Project, r.Workspace).LegacyKey()).Val())
	}
	_, err = b.ReplaceAll(t.Context(), "org/app", requestsOf("a")[0].Owner(), requestsOf("c"))
	require.NoError(t, err)
	requireSound(t, b)
}
