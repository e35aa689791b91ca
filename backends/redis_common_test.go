package backends_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// stored is everything on a server, with times and tokens replaced by how many
// different ones came before.
func stored(t *testing.T, client *redis.Client) (all []string) {
	t.Helper()
	ctx := t.Context()
	seen := make(map[string]string)
	micros := regexp.MustCompile(`[0-9]{16}`)
	note := func(format string, args ...any) {
		all = append(all, micros.ReplaceAllStringFunc(fmt.Sprintf(format, args...), func(n string) string {
			if seen[n] == "" {
				seen[n] = fmt.Sprintf("<%d>", len(seen))
			}
			return seen[n]
		}))
	}
	keys, err := client.Keys(ctx, "*").Result()
	require.NoError(t, err)
	slices.Sort(keys)
	// The log has all times in their order.
	slices.SortStableFunc(keys, func(a, b string) int {
		isLog := func(key string) int {
			if key == repositoryKey("org/app", "log") {
				return 0
			}
			return 1
		}
		return isLog(a) - isLog(b)
	})
	for _, key := range keys {
		switch client.Type(ctx, key).Val() {
		case "string":
			note("%s = %s", key, client.Get(ctx, key).Val())
		case "hash":
			values := client.HGetAll(ctx, key).Val()
			var lines []string
			for field, value := range values {
				lines = append(lines, fmt.Sprintf("%s %q = %q", key, field, value))
			}
			slices.Sort(lines) // by time where there is one, which both have alike
			for _, line := range lines {
				note("%s", line)
			}
		case "zset":
			for _, z := range client.ZRangeWithScores(ctx, key, 0, -1).Val() {
				note("%s %q at %.0f", key, z.Member, z.Score)
			}
		case "list":
			note("%s %q", key, client.LRange(ctx, key, 0, -1).Val())
		case "stream":
			for i, text := range textsOf(t, client, key) {
				note("%s %d %q", key, i, text)
			}
		}
	}
	return all
}

// The script for common cases stores what the general ones store.
func TestRedisCommonStoresTheSame(t *testing.T) {
	t.Parallel()
	var both [2][]string
	for i, records := range []int{100_000, 999} { // the latter is for the general ones only
		client := redistest.Start(t, redistest.Options{}).Client()
		config := mirroring()
		config.LogMaxRecords = records
		b := openRedis(t, client, config)
		require.NoError(t, b.HealthCheck(t.Context()))
		take := func(r *enhanced.EnhancedLockRequest, lease time.Duration) *enhanced.EnhancedLock {
			r.ID, r.Timeout = "request "+r.Resource.Path+r.Project.Path, lease
			r.RequestedAt = time.Unix(1_800_000_000, 0)
			lock, acquired, err := b.TryAcquireLock(t.Context(), r)
			require.NoError(t, err)
			require.True(t, acquired)
			return lock
		}
		take(by("org/app", "plain", "ann"), enhanced.NoTimeout)
		take(by("org/app", "leased", "ann"), time.Hour)
		take(request(stockLock("org/app", 5, "pull")), enhanced.NoTimeout)
		take(request(stockLock("org/app", 6, "pull leased")), time.Hour)
		custom := by("org/app", "", "ann")
		custom.Resource = enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: "org/app", Path: "custom"}
		take(custom, enhanced.NoTimeout)
		byID := take(by("org/app", "by ID", "ann"), time.Hour)
		byOwner := take(request(stockLock("org/app", 7, "by owner")), enhanced.NoTimeout)
		byForce := take(by("org/app", "by force", "ann"), time.Hour)
		require.NoError(t, b.RefreshLock(t.Context(), byForce.ID, 2*time.Hour))
		require.NoError(t, b.ReleaseLock(t.Context(), byID.ID))
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: byOwner.Resource, Owner: byOwner.Owner})
		require.NoError(t, err)
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: byForce.Resource, Force: true, Actor: "user:eve", Reason: "a test"})
		require.NoError(t, err)
		both[i] = stored(t, client)
		backendtest.RequireSound(t, b)
	}
	// A lease's end depends on its beginning; the log's bound is no content.
	require.Equal(t, both[1], both[0])
}

// Callers on different resources of one repository are decided in one call, and
// each gets its own answer; those on one resource one after the other.
func TestRedisManyCallersOfOneRepository(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, mirroring())
	require.NoError(t, b.HealthCheck(t.Context()))
	_, err := b.AcquireLock(t.Context(), by("org/app", "first", "ann")) // the common case has been there before
	require.NoError(t, err)
	const callers, paths = 64, 48
	before := calls(t, client)
	won := make([][]*enhanced.EnhancedLock, callers)
	backendtest.Together(callers, func(i int) {
		for path := range paths {
			lock, acquired, err := b.TryAcquireLock(t.Context(), by("org/app", fmt.Sprint("p", (path+i)%paths), fmt.Sprint("user", i)))
			if err != nil {
				t.Error(err)
			}
			if acquired {
				won[i] = append(won[i], lock)
			}
		}
	})
	asked := callers * paths
	require.Less(t, calls(t, client)-before, asked/2, "calls for %d decisions", asked)
	tokens := make(map[int64]bool)
	for i, locks := range won {
		for _, lock := range locks {
			require.Equal(t, fmt.Sprint("user:user", i), lock.Owner)
			require.False(t, tokens[lock.Version], "token %d was given twice", lock.Version)
			tokens[lock.Version] = true
			there, err := b.GetLock(t.Context(), lock.ID)
			require.NoError(t, err)
			require.Equal(t, lock.Owner, there.Owner)
		}
	}
	require.Len(t, tokens, paths)
	backendtest.Together(callers, func(i int) {
		for _, lock := range won[i] {
			if err := b.ReleaseLock(t.Context(), lock.ID); err != nil {
				t.Error(err)
			}
		}
	})
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1)
	backendtest.RequireSound(t, b)
}

// What decisions have left to be done behind them is done: a log that only grows by
// them stays within its bound.
func TestRedisLogIsTrimmedBehindDecisions(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat, config.LogMaxRecords = false, 1000
	b := openRedis(t, client, config)
	require.NoError(t, b.HealthCheck(t.Context()))
	const callers, pairs = 32, 40
	backendtest.Together(callers, func(i int) {
		for range pairs {
			lock, err := b.AcquireLock(t.Context(), by("org/app", fmt.Sprint("p", i), "ann"))
			if err == nil {
				err = b.ReleaseLock(t.Context(), lock.ID)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	require.Eventually(t, func() bool {
		return client.XLen(t.Context(), repositoryKey("org/app", "log")).Val() <= 1000+128
	}, time.Minute, 10*time.Millisecond, "%d records are kept", client.XLen(t.Context(), repositoryKey("org/app", "log")).Val())
	backendtest.RequireSound(t, b)
}

// A process that releases a lock answers with that one, not with the one that it
// remembers of the resource.
func TestRedisReleaseAnswersWhatWasReleased(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false
	ours, other := openRedis(t, client, config), openRedis(t, client, config)
	require.NoError(t, ours.HealthCheck(t.Context()))
	require.NoError(t, other.HealthCheck(t.Context()))
	take := func(b enhanced.Backend, number int) *enhanced.EnhancedLock {
		lock, acquired, err := b.TryAcquireLock(t.Context(), request(stockLock("org/app", number, "p")))
		require.NoError(t, err)
		require.True(t, acquired)
		return lock
	}
	end := func(b enhanced.Backend, resource enhanced.ResourceIdentifier) *enhanced.EnhancedLock {
		lock, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: resource, Force: true, Actor: "user:eve"})
		require.NoError(t, err)
		return lock
	}
	first := take(ours, 5)
	own := end(ours, first.Resource)
	require.Equal(t, 5, own.OriginalLock.Pull.Num)
	require.Equal(t, first.ID, own.ID)
	require.Equal(t, first.OriginalLock.Pull.HeadCommit, own.OriginalLock.Pull.HeadCommit)

	take(ours, 6)
	end(other, first.Resource)
	theirs := take(other, 7)
	released := end(ours, first.Resource)
	require.Equal(t, theirs.ID, released.ID)
	require.Equal(t, 7, released.OriginalLock.Pull.Num)

	given := take(ours, 8)
	require.NoError(t, other.TransferLock(t.Context(), given.ID, enhanced.UserOwner("bob").String()))
	released = end(ours, first.Resource)
	require.Equal(t, "user:bob", released.Owner)
	require.Equal(t, "bob", released.OriginalLock.User.Username)
	backendtest.RequireSound(t, ours)
}

// Callers of different repositories are decided in one call as well. Two resources
// that are one lock to stock Atlantis are never both granted, whatever their
// repositories.
func TestRedisManyCallersOfManyRepositories(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, mirroring())
	require.NoError(t, b.HealthCheck(t.Context()))
	const callers, rounds = 32, 20
	resource := func(i int) (repository, path string) {
		if i == 0 {
			return "org/team/app", "env" // stock's key is that of the next
		}
		if i == 1 {
			return "org/team", "app/env"
		}
		return fmt.Sprint("org/app-", i%10), fmt.Sprint("p", i)
	}
	won := make([]*enhanced.EnhancedLock, callers)
	round := func() {
		backendtest.Together(callers, func(i int) {
			repository, path := resource(i)
			lock, acquired, err := b.TryAcquireLock(t.Context(), by(repository, path, fmt.Sprint("user", i)))
			if won[i] = nil; acquired {
				won[i] = lock
			} else if i > 1 || err != nil && !errors.Is(err, enhanced.ErrLockExists) {
				t.Errorf("caller %d: %v, %v", i, acquired, err)
			}
		})
		require.False(t, won[0] != nil && won[1] != nil, "one stock's key for two locks")
		for i, lock := range won {
			if lock != nil {
				require.Equal(t, fmt.Sprint("user:user", i), lock.Owner)
			}
		}
		backendtest.Together(callers, func(i int) {
			if won[i] != nil {
				if err := b.ReleaseLock(t.Context(), won[i].ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range callers { // the first in a repository is no common case
		repository, _ := resource(i)
		_, _, err := b.TryAcquireLock(t.Context(), by(repository, "first", "ann"))
		require.NoError(t, err)
	}
	before := calls(t, client)
	for range rounds {
		round()
	}
	asked := 2 * callers * rounds
	require.Less(t, calls(t, client)-before, asked/2, "calls for %d decisions", asked)
	backendtest.RequireSound(t, b)
}

// What one repository has wrong is no matter of the others whose decisions travel in
// the same call.
func TestRedisDamageStaysInItsRepository(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, client *redis.Client){
		"queue of another type": func(t *testing.T, client *redis.Client) {
			t.Helper()
			state := repositoryKey("org/bad", "state")
			require.NoError(t, errors.Join(setCount(t.Context(), client, state, "waiters", 1), setCount(t.Context(), client, state, "gone", 1)))
			require.NoError(t, client.Set(t.Context(), repositoryKey("org/bad", "queue"), "?", 0).Err())
		},
		"token that is no number": func(t *testing.T, client *redis.Client) {
			t.Helper()
			require.NoError(t, setCount(t.Context(), client, repositoryKey("org/bad", "state"), "token", "x000000000000000"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			config := enhanced.DefaultConfig()
			config.PreserveLegacyFormat = false
			b := openRedis(t, client, config)
			require.NoError(t, b.HealthCheck(t.Context()))
			const callers, rounds = 16, 10
			for i := range callers / 2 { // a lock of each caller of the bad one
				_, err := b.AcquireLock(t.Context(), by("org/bad", fmt.Sprint("held", i), "ann"))
				require.NoError(t, err)
			}
			_, err := b.AcquireLock(t.Context(), by("org/good", "first", "ann"))
			require.NoError(t, err)
			damage(t, client)
			logged := client.XLen(t.Context(), repositoryKey("org/bad", "log")).Val()
			backendtest.Together(callers, func(i int) {
				for round := range rounds {
					if i%2 == 0 {
						key := enhanced.ProjectResource(models.NewProject("org/bad", fmt.Sprint("held", i/2), ""), "default")
						if _, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: key, Force: true, Actor: "user:eve"}); err == nil {
							t.Error("a lock of the damaged repository was released")
						}
						continue
					}
					lock, err := b.AcquireLock(t.Context(), by("org/good", fmt.Sprint("p", i, " ", round), "ann"))
					if err == nil { // decided twice, it would not find what it has released
						_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
					}
					if err != nil {
						t.Errorf("caller %d: %v", i, err)
					}
				}
			})
			require.Equal(t, logged, client.XLen(t.Context(), repositoryKey("org/bad", "log")).Val(), "nothing is half done")
		})
	}
}
