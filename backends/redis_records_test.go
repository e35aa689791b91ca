package backends_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A record that can't be read harms only itself: it counts as held, is named,
// and everything else goes on.
func TestRedisUnreadableRecord(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(header, details string) (string, string){
		"empty": func(_, details string) (string, string) { return "", details },
		"text":  func(_, details string) (string, string) { return "\x00\xff not a record", details },
		"cut":   func(header, details string) (string, string) { return header[:len(header)/2], details },
		"long":  func(header, details string) (string, string) { return header + "\nmore", details },
		"flag": func(header, details string) (string, string) {
			return strings.Replace(header, "\nm\n", "\nx\n", 1), details
		},
		"token":        func(header, details string) (string, string) { return "-" + header, details },
		"stock's form": func(header, _ string) (string, string) { return header, "[]" },
		"no details":   func(header, _ string) (string, string) { return header, "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, nil)
			bad, good := by("org/app", "bad", "ann"), by("org/app", "good", "ann")
			for _, request := range []*enhanced.EnhancedLockRequest{bad, good} {
				_, err := b.AcquireLock(ctx, request)
				require.NoError(t, err)
			}
			state, key := repositoryKey("org/app", "state"), bad.Resource.Key()
			parts, err := client.HMGet(ctx, state, "l"+key, "d"+key).Result()
			require.NoError(t, err)
			header, details := damage(fmt.Sprint(parts[0]), fmt.Sprint(parts[1]))
			require.NoError(t, client.HSet(ctx, state, "l"+key, header, "d"+key, details).Err())

			_, _, err = b.TryAcquireLock(ctx, by("org/app", "bad", "bob"))
			require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
			require.ErrorContains(t, err, "bad")
			_, err = b.LookupLock(ctx, bad.Resource)
			require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
			held, err := b.ListLocks(ctx)
			require.NoError(t, err)
			require.Len(t, held, 1)
			stats, err := b.GetStats(ctx)
			require.NoError(t, err)
			require.Len(t, stats.UnreadableRecords, 1)
			require.Contains(t, stats.UnreadableRecords[0], "bad")
			require.NoError(t, b.ReleaseLock(ctx, held[0].ID))
			_, err = b.CleanupExpiredLocks(ctx)
			require.NoError(t, err)
		})
	}
}

// A key of the wrong type fails its repository's steps as a whole, and no other
// repository's.
func TestRedisKeyOfWrongType(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"state", "deadlines", "queue", "log"} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, nil)
			key := "atlantis:lock:{" + enhanced.RepositoryTag("org/app") + "}:" + suffix
			require.NoError(t, client.Set(ctx, key, "text", 0).Err())
			_, _, err := b.TryAcquireLock(ctx, by("org/app", ".", "ann"))
			require.ErrorIs(t, err, enhanced.ErrBackend)
			require.ErrorContains(t, err, "WRONGTYPE")
			require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
			keys, err := client.Keys(ctx, "atlantis:lock:*").Result()
			require.NoError(t, err)
			require.Equal(t, []string{key}, keys, "nothing is half done")
			_, err = b.AcquireLock(ctx, by("org/other", ".", "ann"))
			require.NoError(t, err)
		})
	}
}

// Tokens grow although all data and the clock's past are gone; the next one
// after 2^53 microseconds would lose digits, in the year 2255.
func TestRedisTokensGrowAfterLoss(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, nil)
	last := int64(0)
	for range 5 {
		lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
		require.NoError(t, err)
		require.Greater(t, lock.Version, last)
		last = lock.Version
		require.NoError(t, client.FlushAll(t.Context()).Err())
	}
}

// Names that mean something in Redis' patterns or hash tags are names only.
func TestRedisHostileNames(t *testing.T) {
	t.Parallel()
	names := []string{"a/b*", "a/b?", "a/b[1]", "a/b\\*", "a/{b}", "a/}{b", "a/{}", "a/b", "a/b{c}{d}"}
	for name, client := range map[string]redis.UniversalClient{
		"single":  redistest.Start(t, redistest.Options{}).Client(),
		"cluster": redistest.StartCluster(t, 3, 0, redistest.Options{}).Client(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			b := openRedis(t, client, mirroring())
			for _, repository := range names {
				_, err := b.AcquireLock(ctx, request(stockLock(repository, 5, "x[1]/*")))
				require.NoError(t, err, repository)
			}
			for i, repository := range names {
				released, err := b.ReleaseByPull(ctx, repository, 5, "user:ann")
				require.NoError(t, err, repository)
				require.Len(t, released, 1, repository)
				locks, err := b.ListLocks(ctx)
				require.NoError(t, err)
				require.Len(t, locks, len(names)-i-1)
			}
		})
	}
}
