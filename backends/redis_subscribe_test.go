package backends_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// requireEvents reads events with the paths, in order.
func requireEvents(t *testing.T, events <-chan *enhanced.LockEvent, paths ...string) {
	t.Helper()
	for i, path := range paths {
		select {
		case event := <-events:
			require.Equal(t, path, event.Resource.Path, "event %d: %+v", i, event)
		case <-time.After(30 * time.Second):
			t.Fatalf("event %d is missing", i)
		}
	}
}

// takeMany takes locks on paths with a prefix and returns the paths.
func takeMany(t *testing.T, b enhanced.Backend, repository, prefix string, n int) (paths []string) {
	t.Helper()
	for i := range n {
		path := fmt.Sprint(prefix, i)
		_, err := b.AcquireLock(t.Context(), by(repository, path, "ann"))
		require.NoError(t, err)
		paths = append(paths, path)
	}
	return paths
}

// Subscribers live through the loss of their connection and miss nothing.
func TestRedisSubscriberIsKilled(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	ctx := t.Context()
	events, err := b.Subscribe(ctx, nil)
	require.NoError(t, err)
	const changes = 100
	killed := int64(0)
	for i := range changes {
		_, err := b.AcquireLock(ctx, by("org/app", fmt.Sprint("p", i), "ann"))
		require.NoError(t, err)
		if i%10 == 0 {
			n, err := client.ClientKillByFilter(ctx, "TYPE", "pubsub").Result()
			require.NoError(t, err)
			killed += n
		}
	}
	require.Positive(t, killed)
	for i := range changes {
		select {
		case event := <-events:
			require.Equal(t, fmt.Sprint("p", i), event.Resource.Path)
		case <-time.After(10 * time.Second):
			t.Fatalf("event %d is missing", i)
		}
	}
}

// Without the right to subscribe and publish, events come by polling.
func TestRedisWithoutPubSub(t *testing.T) {
	t.Parallel()
	user := regexp.MustCompile(` &\S+| \+s?(un)?subscribe| \+s?publish`).ReplaceAllString(documentedUser(t), "")
	require.NotContains(t, user, "publish")
	server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t, user)})
	options := server.Options()
	options.Username, options.Password = leastUser, leastPassword
	client := redis.NewClient(options)
	defer client.Close()
	b := openRedis(t, client, nil)
	_, err := b.AcquireLock(t.Context(), by("org/app", "first", "ann"))
	require.NoError(t, err)
	events, err := b.Subscribe(t.Context(), nil)
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), by("org/app", "second", "ann"))
	require.NoError(t, err)
	select {
	case event := <-events:
		require.Equal(t, "second", event.Resource.Path)
	case <-time.After(60 * time.Second):
		t.Fatal("no event came")
	}
}

// A server that has lost the end of a log says nothing of it. Readers see that
// it is another log, say that they had to skip, and send what is new in it,
// whether it is shorter than what they have read or longer.
func TestRedisLogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	// image is what a server has, as a replica that is promoted may have it.
	image := func(t *testing.T, client *redis.Client) map[string]string {
		t.Helper()
		dump := make(map[string]string)
		keys, err := client.Keys(ctx, repositoryKey("org/app", "*")).Result()
		require.NoError(t, err)
		for _, key := range keys {
			dump[key], err = client.Dump(ctx, key).Result()
			require.NoError(t, err)
		}
		return dump
	}
	replace := func(t *testing.T, client *redis.Client, dump map[string]string) {
		t.Helper()
		_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.FlushAll(ctx)
			for key, value := range dump {
				pipe.RestoreReplace(ctx, key, 0, value)
			}
			return nil
		})
		require.NoError(t, err)
	}
	read := func(t *testing.T, n int) (*backends.RedisBackend, *redis.Client, <-chan *enhanced.LockEvent) {
		t.Helper()
		client := redistest.Start(t, redistest.Options{}).Client()
		b := openRedis(t, client, nil)
		events, err := b.Subscribe(ctx, nil)
		require.NoError(t, err)
		requireEvents(t, events, takeMany(t, b, "org/app", "old", n)...)
		return b, client, events
	}
	for _, n := range []int{1, 30, 50, 51, 80} {
		t.Run(fmt.Sprint("all, ", n, " records are there after 50"), func(t *testing.T) {
			t.Parallel()
			_, client, events := read(t, 50)
			other := redistest.Start(t, redistest.Options{}).Client()
			paths := takeMany(t, openRedis(t, other, nil), "org/app", "new", n)
			replace(t, client, image(t, other))
			requireEvents(t, events, "") // of type skipped, which names no resource
			requireEvents(t, events, paths...)
		})
	}
	for _, n := range []int{5, 10, 15} {
		t.Run(fmt.Sprint("10 records, ", n, " others follow"), func(t *testing.T) {
			t.Parallel()
			b, client, events := read(t, 20)
			kept := image(t, client)
			requireEvents(t, events, takeMany(t, b, "org/app", "lost", 10)...)
			// The other server goes on from what it had.
			other := redistest.Start(t, redistest.Options{}).Client()
			replace(t, other, kept)
			paths := takeMany(t, openRedis(t, other, nil), "org/app", "new", n)
			replace(t, client, image(t, other))
			requireEvents(t, events, "")
			requireEvents(t, events, paths...)
		})
	}
}

// A message is sent where somebody listens, and not elsewhere.
func TestRedisWakesOnlyReaders(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(t *testing.T) (redis.UniversalClient, []*redis.Client){
		"single": func(t *testing.T) (redis.UniversalClient, []*redis.Client) {
			t.Helper()
			client := redistest.Start(t, redistest.Options{}).Client()
			return client, []*redis.Client{client}
		},
		"cluster": func(t *testing.T) (redis.UniversalClient, []*redis.Client) {
			t.Helper()
			cluster := redistest.StartCluster(t, 3, 0, redistest.Options{})
			var nodes []*redis.Client
			for _, node := range cluster.Nodes {
				nodes = append(nodes, node.Client())
			}
			return cluster.Client(), nodes
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, nodes := connect(t)
			sent := func() (n int) {
				for _, node := range nodes {
					info, err := node.Info(t.Context(), "commandstats").Result()
					require.NoError(t, err)
					for _, line := range strings.Split(info, "\r\n") {
						var calls int
						if _, err := fmt.Sscanf(line, "cmdstat_publish:calls=%d,", &calls); err == nil {
							n += calls
						}
						if _, err := fmt.Sscanf(line, "cmdstat_spublish:calls=%d,", &calls); err == nil {
							n += calls
						}
					}
				}
				return n
			}
			b := openRedis(t, client, nil)
			takeMany(t, b, "org/app", "unheard", 20)
			require.Equal(t, 1, sent(), "one for the new repository")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			events, err := b.Subscribe(ctx, nil)
			require.NoError(t, err)
			requireEvents(t, events, takeMany(t, b, "org/app", "heard", 20)...)
			require.Equal(t, 21, sent())
			// Far sooner than by polling, once the channel is listened to.
			backendtest.Eventually(t, "a message wakes the reader at once", func() bool {
				start := time.Now()
				requireEvents(t, events, takeMany(t, b, "org/app", fmt.Sprint("soon", start.UnixNano()), 1)...)
				return time.Since(start) < 200*time.Millisecond
			})
		})
	}
}

// An attempt to subscribe that comes to nothing leaves no connection.
func TestRedisAbandonedSubscriptions(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := server.Client()
	b := backends.NewRedisBackend(client, nil, nil)
	require.NoError(t, b.HealthCheck(t.Context()))
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
		_, _ = b.Subscribe(ctx, nil)
		cancel()
	}
	require.NoError(t, b.Close())
	backendtest.Eventually(t, "subscribers are gone", func() bool {
		list, err := client.ClientList(t.Context()).Result()
		return err == nil && !strings.Contains(list, "sub=1")
	})
}

// A subscriber that reads nothing leaves nothing behind, even when the server had more
// to tell than fits between the library and its reader.
//
//nolint:paralleltest // it counts goroutines
func TestRedisSubscriberThatReadsNothingLeavesNothing(t *testing.T) {
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.EventBufferSize = 1
	b := openRedis(t, client, config)
	takeMany(t, b, "org/app", "before", 1)
	others := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	events, err := b.Subscribe(ctx, nil)
	require.NoError(t, err)
	takeMany(t, b, "org/app", "p", 300)
	cancel()
	backendtest.Eventually(t, "the subscription ends", func() bool {
		_, open := <-events
		return !open
	})
	goleak.VerifyNone(t, others)
}
