package backends_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

func repositoryKey(repository, suffix string) string {
	return "atlantis:lock:{" + enhanced.RepositoryTag(repository) + "}:" + suffix
}

// leased is a request of ann for a lease of the shortest time, which has ended
// by the time anybody looks.
func leased(repository, path string) *enhanced.EnhancedLockRequest {
	r := by(repository, path, "ann")
	r.Timeout = time.Millisecond
	return r
}

// What is wrong with one lease or one repository keeps no other lease from its
// end, and is looked at once.
func TestRedisCleanupBesideDamage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, plant := range map[string]func(client *redis.Client) error{
		"an unreadable record": func(client *redis.Client) error {
			return client.HSet(ctx, repositoryKey("org/app", "state"), "lproject/bad/default/", "x").Err()
		},
		"stock's key of another type": func(client *redis.Client) error {
			if err := client.Del(ctx, "pr/org/app/bad/default/").Err(); err != nil {
				return err
			}
			return client.RPush(ctx, "pr/org/app/bad/default/", "x").Err()
		},
		"a deadline of a lock without lease": func(client *redis.Client) error {
			return client.ZAdd(ctx, repositoryKey("org/app", "deadlines"), redis.Z{Score: 5, Member: "project/kept/default/"}).Err()
		},
		"a deadline of no resource": func(client *redis.Client) error {
			return client.ZAdd(ctx, repositoryKey("org/app", "deadlines"), redis.Z{Score: 5, Member: "x"}).Err()
		},
		"deadlines of another type": func(client *redis.Client) error {
			return client.Set(ctx, repositoryKey("org/broken", "deadlines"), "x", 0).Err()
		},
		"a log of another type": func(client *redis.Client) error {
			return client.Set(ctx, repositoryKey("org/broken", "log"), "x", 0).Err()
		},
		"a counter that is none": func(client *redis.Client) error {
			return setCount(ctx, client, repositoryKey("org/broken", "state"), "sequence", "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, mirroring())
			for _, r := range []*enhanced.EnhancedLockRequest{leased("org/broken", "."), by("org/app", "kept", "ann"), leased("org/app", "bad"), leased("org/app", "good"), leased("org/other", ".")} {
				if strings.HasPrefix(name, "deadlines") || strings.HasPrefix(name, "a log") {
					require.NoError(t, client.Del(ctx, repositoryKey("org/broken", "deadlines"), repositoryKey("org/broken", "log")).Err())
				}
				_, err := b.AcquireLock(ctx, r)
				require.NoError(t, err)
			}
			if strings.HasPrefix(name, "deadlines") || strings.HasPrefix(name, "a log") {
				require.NoError(t, client.Del(ctx, repositoryKey("org/broken", "deadlines"), repositoryKey("org/broken", "log")).Err())
			}
			awaitEnds(t, b, by("org/app", "good", "").Resource, by("org/other", ".", "").Resource)
			require.NoError(t, plant(client))
			before := calls(t, client)
			_, err := b.CleanupExpiredLocks(ctx)
			if err != nil {
				require.ErrorContains(t, err, "end leases")
				require.NotContains(t, err.Error(), "org/other")
			}
			require.Less(t, calls(t, client)-before, 40, "it asked again and again")
			for _, repository := range []string{"org/app", "org/other"} {
				page, err := b.ReadLog(ctx, repository, 0, 100)
				require.NoError(t, err)
				require.Contains(t, page.Records[len(page.Records)-1].Type+page.Records[len(page.Records)-2].Type, enhanced.EventTimeout, repository)
			}
			_, err = b.LookupLock(ctx, by("org/app", "kept", "").Resource)
			require.NoError(t, err)
		})
	}
}

// awaitEnds waits until the leases on resources have run out.
func awaitEnds(t *testing.T, b enhanced.Backend, resources ...enhanced.ResourceIdentifier) {
	t.Helper()
	for _, resource := range resources {
		backendtest.Eventually(t, "the lease has ended", func() bool {
			_, err := b.LookupLock(t.Context(), resource)
			return errors.Is(err, enhanced.ErrLockNotFound)
		})
	}
}

// calls counts the scripts that a server has run.
func calls(t *testing.T, client *redis.Client) int {
	t.Helper()
	info, err := client.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	_, rest, _ := strings.Cut(info, "cmdstat_evalsha:calls=")
	digits, _, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(digits)
	require.NoError(t, err)
	return n
}

// A repository whose name is damaged is named, and hides no other.
func TestRedisDamagedRepositoryIsNamed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, plant := range map[string]func(client *redis.Client, key string) error{
		"another name": func(client *redis.Client, key string) error { return client.HSet(ctx, key, "name", "org/x").Err() },
		"another type": func(client *redis.Client, key string) error { return client.Set(ctx, key, "x", 0).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, nil)
			for _, repository := range []string{"org/bad", "org/good"} {
				_, err := b.AcquireLock(ctx, by(repository, ".", "ann"))
				require.NoError(t, err)
			}
			require.NoError(t, plant(client, repositoryKey("org/bad", "state")))
			locks, err := b.ListLocks(ctx)
			require.NoError(t, err)
			require.Len(t, locks, 1)
			stats, err := b.GetStats(ctx)
			require.NoError(t, err)
			require.Len(t, stats.UnreadableRecords, 1)
			require.Contains(t, stats.UnreadableRecords[0], enhanced.RepositoryTag("org/bad"))
			events, err := b.Subscribe(ctx, nil)
			require.NoError(t, err)
			_, err = b.AcquireLock(ctx, by("org/good", "a", "ann"))
			require.NoError(t, err)
			select {
			case event := <-events:
				require.Equal(t, "a", event.Resource.Path)
			case <-time.After(20 * time.Second):
				t.Fatal("the good one's event is missing")
			}
		})
	}
}

// What leads from an owner nowhere blocks no release.
func TestRedisReleaseByPullBesideBadEntries(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, mirroring())
	_, err := b.AcquireLock(ctx, request(stockLock("org/app", 5, ".")))
	require.NoError(t, err)
	for _, entry := range []string{"op5/github.com\ngarbage\nx", "op5/%zz\nproject/x/default/\nx", "op5/github.com\nproject/x/default/", "op5/x"} {
		require.NoError(t, client.ZAdd(ctx, repositoryKey("org/app", "queue"), redis.Z{Member: entry}).Err())
	}
	released, err := b.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, 1)
	violations, err := b.Verify(ctx)
	require.NoError(t, err)
	require.Empty(t, violations, "they are gone")
}

// A lock whose stock's form is damaged can be released, and a release says so.
func TestRedisReleaseOfDamagedForm(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false
	b := openRedis(t, client, config)
	damage := func(path string) {
		_, err := b.AcquireLock(ctx, request(stockLock("org/app", 5, path)))
		require.NoError(t, err)
		field := "d" + resourceOf(stockLock("org/app", 5, path)).Key()
		require.NoError(t, client.HSet(ctx, repositoryKey("org/app", "state"), field, "{]}").Err())
	}
	damage("a")
	damage("b")
	_, acquired, err := b.TryAcquireLock(ctx, request(stockLock("org/app", 6, "a")))
	require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
	require.False(t, acquired)
	lock, err := b.Release(ctx, enhanced.ReleaseRequest{Resource: resourceOf(stockLock("org/app", 5, "a")), Force: true, Actor: "user:ann", Reason: "damaged"})
	require.NoError(t, err)
	require.Equal(t, "pr:github.com/org%2Fapp/5", lock.Owner)
	require.Equal(t, 5, lock.OriginalLock.Pull.Num)
	released, err := b.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, 1)
	require.Equal(t, "b", released[0].Resource.Path)
}

// Whatever index of a repository is lost, steps are done as a whole, and what is
// held stays held.
func TestRedisLostKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, suffix := range []string{"deadlines", "queue", "log"} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, mirroring())
			held, err := b.AcquireLock(ctx, by("org/app", "held", "ann"))
			require.NoError(t, err)
			ended, err := b.AcquireLock(ctx, by("org/app", "ended", "ann"))
			require.NoError(t, err)
			require.NoError(t, b.ReleaseLock(ctx, ended.ID))
			require.NoError(t, client.Del(ctx, repositoryKey("org/app", suffix)).Err())

			lock, err := b.AcquireLock(ctx, by("org/app", "new", "bob"))
			require.NoError(t, err)
			require.Greater(t, lock.Version, ended.Version)
			page, err := b.ReadLog(ctx, "org/app", 0, 100)
			require.NoError(t, err)
			last := page.Records[len(page.Records)-1]
			require.Equal(t, []any{"new", enhanced.EventAcquired, lock.Version}, []any{last.Resource.Path, last.Type, last.Token})
			_, err = b.Release(ctx, enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
			require.NoError(t, err)
			_, acquired, err := b.TryAcquireLock(ctx, by("org/app", "held", "bob"))
			require.NoError(t, err)
			require.False(t, acquired, "%s is still held", held.Resource)
		})
	}
}

// With the state all locks are lost; tokens and the log go on all the same.
func TestRedisLostState(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false // else stock's copies count
	b := openRedis(t, client, config)
	before, err := b.AcquireLock(ctx, by("org/app", ".", "ann"))
	require.NoError(t, err)
	require.NoError(t, client.Del(ctx, repositoryKey("org/app", "state")).Err())
	lock, err := b.AcquireLock(ctx, by("org/app", ".", "bob"))
	require.NoError(t, err)
	require.Greater(t, lock.Version, before.Version)
	page, err := b.ReadLog(ctx, "org/app", 0, 100)
	require.NoError(t, err)
	require.Len(t, page.Records, 2)
	require.NoError(t, b.ReleaseLock(ctx, lock.ID))
	require.ErrorIs(t, b.ReleaseLock(ctx, before.ID), enhanced.ErrLockNotFound)
}

// A script that fails after its first write may have done something, and the
// caller hears that.
func TestRedisFailureHalfWay(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t, documentedUser(t))})
	options := server.Options()
	options.Username, options.Password = leastUser, leastPassword
	client := redis.NewClient(options)
	defer client.Close()
	b := backends.NewRedisBackend(client, nil, nil)
	defer b.Close()
	require.NoError(t, b.HealthCheck(ctx))
	// Revoked while the program runs: no check can see that before.
	require.NoError(t, server.Client().Do(context.Background(), "acl", "setuser", leastUser, "-zadd").Err())
	_, err := b.AcquireLock(ctx, by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
}
