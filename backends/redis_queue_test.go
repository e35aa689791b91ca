package backends_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestRedisQueue(t *testing.T) {
	t.Parallel()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		return openRedis(t, redistest.Start(t, redistest.Options{}).Client(), config)
	}
	backendtest.RunQueue(t, newBackend)
	backendtest.RunQueueMoves(t, newBackend)
	backendtest.RunQueueDetached(t, newBackend)
	backendtest.RunDeadlock(t, newBackend)
	backendtest.RunDeadlockDetection(t, newBackend)
}

func TestRedisClusterQueue(t *testing.T) {
	t.Parallel()
	client := redistest.StartCluster(t, 3, 1, redistest.Options{}).Client()
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.FlushAll(ctx).Err()
		}))
		return openRedis(t, client, config)
	}
	backendtest.RunQueue(t, newBackend)
	backendtest.RunQueueDetached(t, newBackend)
	backendtest.RunDeadlock(t, newBackend)
	backendtest.RunDeadlockDetection(t, newBackend)
}

// With replicas that must have a grant, one that somebody else made is confirmed
// before it is told.
func TestRedisSentinelQueue(t *testing.T) {
	t.Parallel()
	client := redistest.StartSentinel(t, redistest.Options{}).Client()
	client.AddHook(patientReplicas(new(atomic.Bool)))
	newBackend := func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, client.FlushAll(t.Context()).Err())
		confirmed := *config
		confirmed.RedisMinReplicasAck = 1
		return openRedis(t, client, &confirmed)
	}
	backendtest.RunQueue(t, newBackend)
	backendtest.RunQueueDetached(t, newBackend)
	backendtest.RunDeadlock(t, newBackend)
	backendtest.RunDeadlockDetection(t, newBackend)
}

// All processes see one queue, and each hears of the turns of its own calls.
func TestRedisQueueOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	one, two := openRedis(t, server.Client(), queueOn()), openRedis(t, server.Client(), queueOn())
	lock, err := one.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	low, high := by("org/app", ".", "bob"), by("org/app", ".", "eve")
	high.Priority = enhanced.PriorityHigh
	first := waits(t, two, low)
	second := waits(t, one, high)
	require.NoError(t, two.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-second)
	held, err := two.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, "user:eve", held.Owner)
	require.NoError(t, one.ReleaseLock(t.Context(), held.ID))
	require.NoError(t, <-first)
}

// shortLiveness is how long a process counts as alive that is not heard of: short, but
// longer than a busy machine leaves one out.
const shortLiveness = 3 * time.Second

// cutOffClient is a client of a process that is cut off.
func cutOffClient(t *testing.T, proxy *redistest.Proxy) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr, DialTimeout: time.Second, ReadTimeout: time.Second, MaxRetries: -1})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// requireLost checks what a process is told that was cut off and has lost its place.
// One whose answer was on its way does not know that it waited.
func requireLost(t *testing.T, err error) {
	t.Helper()
	require.True(t, errors.Is(err, enhanced.ErrLockExpired) || errors.Is(err, enhanced.ErrOutcomeUnknown), "%v", err)
}

// A process that has died is passed over once it counts as dead, and takes no
// place in a full queue.
// Its calls are told, as etcd-io/etcd#11456 and #9921 ask for: there, who had lost
// its lease while it waited was told that it had the lock.
func TestRedisQueueOfADeadProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := queueOn()
	config.WaiterLiveness, config.MaxQueueSize = shortLiveness, 2
	b := openRedis(t, server.Client(), config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	proxy := redistest.StartProxy(t, server.Addr)
	client := cutOffClient(t, proxy)
	dead := openRedis(t, client, config)
	answers := waits(t, dead, by("org/app", ".", "bob"), by("org/app", ".", "eve"))
	_, err = b.AcquireLock(t.Context(), by("org/app", ".", "kim"))
	require.ErrorIs(t, err, enhanced.ErrQueueFull)
	proxy.Cut()
	backendtest.Eventually(t, "they count as dead", func() bool { return waiting(t, b) == 0 })
	alive := waits(t, b, by("org/app", ".", "kim"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-alive)
	proxy.Heal()
	for range 2 {
		requireLost(t, <-answers)
	}
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// Without the channel a waiter looks for itself.
// As in redisson/redisson#5761 and #3891: a message that was lost cost 35 s.
func TestRedisQueueWithoutPubSub(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b := openRedis(t, muteClient(t, server), queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
}

// A queue is in one repository: a request for a resource that stock Atlantis
// takes for one of another repository is refused.
func TestRedisQueueOfOneLegacyKey(t *testing.T) {
	t.Parallel()
	b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), queueOn())
	lock, err := b.AcquireLock(t.Context(), by("g/s", "r", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("g/s", "r", "bob"))
	_, err = b.AcquireLock(t.Context(), by("g", "s/r", "eve"))
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
}

// A server without memory takes no waiter, and still hands over.
func TestRedisQueueOutOfMemory(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"))
	letGo := fillMemory(t, client)
	defer letGo()
	_, err = b.AcquireLock(t.Context(), by("org/app", ".", "eve"))
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorContains(t, err, "OOM")
	require.Equal(t, 1, waiting(t, b))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// Each damage to a queue is found and repaired, and harms nobody else.
// As in redisson/redisson#4153: a list and a sorted set of one queue disagreed.
func TestRedisQueueCorruptions(t *testing.T) {
	t.Parallel()
	const place = "qproject/./default/\n"
	for name, c := range map[string]struct {
		damage func(ctx context.Context, client *redis.Client, member string) error
		rules  []string
		passed bool
	}{
		"unreadable": {
			damage: func(ctx context.Context, client *redis.Client, _ string) error {
				return client.HSet(ctx, repositoryKey("org/app", "state"), "rfirst", "{").Err()
			},
			rules: []string{enhanced.RuleQueueUnreadable, enhanced.RuleOwnerStray, enhanced.RuleQueueStray}, passed: true,
		},
		"lost": {
			damage: func(ctx context.Context, client *redis.Client, _ string) error {
				return client.HDel(ctx, repositoryKey("org/app", "state"), "rfirst").Err()
			},
			rules: []string{enhanced.RuleOwnerStray, enhanced.RuleQueueStray, enhanced.RuleQueueCount}, passed: true,
		},
		"no place": {
			damage: func(ctx context.Context, client *redis.Client, member string) error {
				return client.ZRem(ctx, repositoryKey("org/app", "queue"), member).Err()
			},
			rules: []string{enhanced.RuleQueueMissing},
		},
		"no way from its owner": {
			damage: func(ctx context.Context, client *redis.Client, _ string) error {
				return client.ZRem(ctx, repositoryKey("org/app", "queue"), "ouser:bob\nproject/./default/\nfirst").Err()
			},
			rules: []string{enhanced.RuleQueueMissing},
		},
		"another's place": {
			damage: func(ctx context.Context, client *redis.Client, member string) error {
				rank := member[len(place) : len(place)+33]
				moved := "19" + rank[2:]
				text, err := client.HGet(ctx, repositoryKey("org/app", "state"), "rfirst").Result()
				if err != nil {
					return err
				}
				if err := client.HSet(ctx, repositoryKey("org/app", "state"), "rfirst", strings.Replace(text, rank, moved, 1)).Err(); err != nil {
					return err
				}
				if err := client.ZRem(ctx, repositoryKey("org/app", "queue"), member).Err(); err != nil {
					return err
				}
				return client.ZAdd(ctx, repositoryKey("org/app", "queue"), redis.Z{Member: strings.Replace(member, rank, moved, 1)}).Err()
			},
			rules: []string{enhanced.RuleQueueRank},
		},
		"an interval that nobody can configure": {
			damage: func(ctx context.Context, client *redis.Client, _ string) error {
				return client.HSet(ctx, repositoryKey("org/app", "state"), "aging", "soon").Err()
			},
			rules: []string{enhanced.RuleQueueRank},
		},
		"another count": {
			damage: func(ctx context.Context, client *redis.Client, _ string) error {
				return setCount(ctx, client, repositoryKey("org/app", "state"), "waiters", 7)
			},
			rules: []string{enhanced.RuleQueueCount},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, queueOn())
			lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
			require.NoError(t, err)
			first, second := by("org/app", ".", "bob"), by("org/app", ".", "eve")
			first.ID, second.ID = "first", "second"
			answers := waits(t, b, first, second)
			members, err := client.ZRangeArgs(t.Context(), redis.ZRangeArgs{
				Key: repositoryKey("org/app", "queue"), Start: "[" + place, Stop: "(" + place + ":", ByLex: true,
			}).Result()
			require.NoError(t, err)
			require.Len(t, members, 2)
			require.NoError(t, c.damage(t.Context(), client, members[0]))
			requireQueueRepaired(t, b, lock, answers, c.rules, c.passed)
		})
	}
}

// muteClient is a client that may listen to no channel, and hears of no turn.
func muteClient(t *testing.T, server *redistest.Server) *redis.Client {
	t.Helper()
	require.NoError(t, server.Client().Do(t.Context(), "acl", "setuser", "mute", "on", ">mute-secret", "~*", "+@all", "resetchannels").Err())
	options := server.Options()
	options.Username, options.Password = "mute", "mute-secret"
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}
