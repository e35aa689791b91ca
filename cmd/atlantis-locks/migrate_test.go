package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// What stock Atlantis has goes to each kind of store, and back to stock.
func TestMigrateStock(t *testing.T) {
	t.Parallel()
	for name, stores := range map[string]struct{ from, to func(*testing.T) *place }{
		"bbolt to Redis":   {filePlace, redisPlace},
		"Redis to cluster": {redisPlace, clusterPlace},
		"Redis to bbolt":   {redisPlace, filePlace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := stores.from(t), stores.to(t)
			fillStock(t, from)
			before := from.bytes(t)

			report, _ := migrate(t, 0, "--from", from.url, "--to", to.url, "--dry-run")
			require.EqualValues(t, stockLocks, report.Locks.Taken)
			require.EqualValues(t, 2, report.Written)
			require.Empty(t, to.bytes(t), "a dry run writes nothing")

			report, _ = migrate(t, 0, "--from", from.url, "--to", to.url)
			require.EqualValues(t, stockLocks, report.Locks.Taken)
			require.True(t, report.Compared)
			require.Equal(t, before, from.bytes(t), "the source is only read")
			require.NotContains(t, to.bytes(t), "hunter2")
			to.inOurs(t, func(a *enhanced.LockingAdapter) { requireStock(t, a) })

			// Once more: everything is there already, and nothing is written.
			filled := to.bytes(t)
			report, _ = migrate(t, 0, "--from", from.url, "--to", to.url, "--dry-run")
			require.Equal(t, stockLocks, report.Locks.Already)
			require.Equal(t, filled, to.bytes(t))
			report, _ = migrate(t, 0, "--from", from.url, "--to", to.url, "--update")
			require.Equal(t, stockLocks, report.Locks.Already)
			require.Zero(t, report.Locks.Taken+report.Locks.Released+report.Written)

			// Back, into a new store of stock Atlantis, which its own code reads.
			back := filePlace(t)
			if from.client == nil {
				back = redisPlace(t)
			}
			report, _ = migrate(t, 0, "--from", to.url, "--to", "stock+"+back.url)
			require.EqualValues(t, stockLocks, report.Locks.Taken)
			back.stock(t, func(database db.Database) { requireStock(t, database) })
			require.NotContains(t, back.bytes(t), "enhanced")
			require.NotContains(t, back.bytes(t), "atlantis:lock:")
			report, _ = migrate(t, 0, "--from", to.url, "--to", "stock+"+back.url)
			require.Equal(t, stockLocks, report.Locks.Already)
			require.Zero(t, report.Locks.Taken)
		})
	}
}

// What this project has goes round all of its stores.
func TestMigrateOurs(t *testing.T) {
	t.Parallel()
	stores := []*place{filePlace(t), redisPlace(t), clusterPlace(t), filePlace(t)}
	fillOurs(t, stores[0])
	want, tokens := snapshotOurs(t, stores[0])
	require.Len(t, want, 5)
	for i := range len(stores) - 1 {
		from, to := stores[i], stores[i+1]
		if single, ok := from.client.(*redis.Client); ok {
			// A server that must not be a store can be left all the same.
			require.NoError(t, single.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
			defer single.ConfigSet(t.Context(), "maxmemory-policy", "noeviction")
		}
		report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
		require.EqualValues(t, len(want), report.Locks.Taken)
		got, later := snapshotOurs(t, to)
		require.Equal(t, want, got)
		for repository, token := range tokens {
			require.Greater(t, later[repository], token, "tokens go on in %s", repository)
		}
		tokens = later
		require.Contains(t, to.bytes(t), "migrated:")
	}
	// Leases and what is no project have no place in stock's store, and of other locks
	// it keeps a part.
	back := filePlace(t)
	report, _ := migrate(t, exitViolations, "--from", stores[1].url, "--to", "stock+"+back.url)
	require.EqualValues(t, len(want)-2, report.Locks.Taken)
	requireLost := func(differences []migrateDifference) {
		told := make(map[string]string)
		for _, d := range differences {
			told[d.Record] = d.Detail
		}
		require.Equal(t, map[string]string{
			"acme/infra (path p/0, workspace default)":                       "stock Atlantis' locks don't keep its priority high",
			"acme/infra (path p/1, workspace default)":                       "stock Atlantis' locks don't keep its owner user alice, who is no pull request, its note, and its priority low",
			"acme/infra (path p/2, workspace default)":                       "it was not carried: it has a lease, and stock Atlantis' locks never end by themselves",
			"custom acme/infra (path anything, workspace x)":                 "it was not carried: stock Atlantis locks projects only",
			`acme/infra (path "ümlaut/a b", workspace default, project web)`: "stock Atlantis' locks don't keep its priority low",
		}, told)
	}
	requireLost(report.Differences)
	again := filePlace(t)
	for _, flags := range [][]string{{"--dry-run"}, {"--delete-source"}} {
		report, _ = migrate(t, exitViolations, append([]string{"--from", stores[1].url, "--to", "stock+" + again.url}, flags...)...)
		requireLost(report.Differences)
		require.False(t, report.SourceDeleted, "what was lost is in the source alone")
	}
}

// Tokens go on above those of a source whose clock is ahead.
func TestMigrateTokens(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	ahead := time.Now().Add(time.Hour).UnixMicro()
	fillOurs(t, from)
	from.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		require.NoError(t, b.RaiseToken(t.Context(), "acme/infra", ahead))
	})
	migrate(t, 0, "--from", from.url, "--to", to.url)
	_, tokens := snapshotOurs(t, to)
	for repository, token := range tokens {
		require.Greater(t, token, ahead, repository)
	}
	// One that can't be counted from is refused, before any lock is taken.
	from.file(t, func(file *bbolt.DB) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("enhanced")).Put([]byte("token"), []byte("\x7fxxxxxxx"))
		}))
	})
	to = redisPlace(t)
	report, stderr := migrate(t, exitError, "--from", from.url, "--to", to.url)
	require.Contains(t, stderr, "can't be carried")
	require.False(t, report.Compared)
	require.NotContains(t, to.bytes(t), "migrated:")
}

// Locks that the target has stay, and one that excludes another is told.
func TestMigrateIntoUsed(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	fillStock(t, from)
	to.ours(t, func(b lockStore, status enhanced.StatusStore) {
		for _, repository := range []string{"acme/app1", "acme/other"} {
			_, acquired, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Project: models.NewProject(repository, "p/1", ""), Workspace: "default", User: models.User{Username: "zoe"}, Timeout: enhanced.NoTimeout,
			})
			require.NoError(t, err)
			require.True(t, acquired)
		}
		_, err := status.UpdatePullWithResults(stockLock("acme/app1", "p/1", "default", 2).Pull, nil)
		require.NoError(t, err)
	})
	for _, flags := range [][]string{{"--dry-run"}, {"--delete-source"}, nil} {
		report, _ := migrate(t, exitViolations, append([]string{"--from", from.url, "--to", to.url}, flags...)...)
		require.Len(t, report.Differences, 2, "%+v", report.Differences)
		require.Equal(t, "acme/app1 (path p/1, workspace default)", report.Differences[0].Record)
		require.Contains(t, report.Differences[0].Detail, "locked by user zoe")
		require.Equal(t, "status", report.Differences[1].What)
		require.False(t, report.SourceDeleted)
	}
	from.stock(t, func(database db.Database) { requireStock(t, database) })
	to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, stockLocks+1)
	})
}

// Stores that overlap are refused, whatever they are called.
func TestMigrateOverlap(t *testing.T) {
	t.Parallel()
	file, server := filePlace(t), redisPlace(t)
	fillStock(t, file)
	fillStock(t, server)
	link := filepath.Join(t.TempDir(), "other.db")
	require.NoError(t, os.Link(file.path, link))
	for _, urls := range [][2]string{
		{file.url, file.url}, {file.url, "boltdb:" + link}, {file.url, "stock+boltdb:" + link},
		{server.url, server.url}, {server.url, "stock+" + server.url},
		{server.url, strings.Replace(server.url, "127.0.0.1", "localhost", 1) + "?prefix=other:"},
	} {
		_, stderr := migrate(t, exitError, "--from", urls[0], "--to", urls[1])
		require.Contains(t, stderr, "overlap", "%v", urls)
	}
	// Another database of the server is another store.
	migrate(t, 0, "--from", server.url, "--to", server.url+"/1")
}

// An emptied source has nothing left of what was carried.
func TestMigrateDeletesSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from *place
		fill func(*testing.T, *place)
	}{
		"stock's file": {filePlace(t), fillStock}, "stock's Redis": {redisPlace(t), fillStock},
		"our file": {filePlace(t), fillOurs}, "our Redis": {redisPlace(t), fillOurs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := filePlace(t)
			c.fill(t, c.from)
			report, _ := migrate(t, 0, "--from", c.from.url, "--to", to.url, "--delete-source")
			require.True(t, report.SourceDeleted)
			report, _ = migrate(t, exitViolations, "--from", c.from.url, "--to", to.url, "--dry-run")
			require.Zero(t, report.Locks.Source+report.Statuses+report.CommandLocks)
			for _, d := range report.Differences {
				require.Regexp(t, "can be the only copy|only the target", d.Detail, "what is gone from the source stays in the target")
			}

			for _, flags := range [][]string{{"--update"}, {"--update", "--dry-run"}} {
				_, stderr := migrate(t, exitError, append(flags, "--from", c.from.url, "--to", to.url)...)
				require.Contains(t, stderr, "the source has no lock any more")
				require.Contains(t, stderr, "only copies")
			}
			again, _ := migrate(t, exitViolations, "--from", c.from.url, "--to", to.url, "--dry-run")
			require.Equal(t, report.Differences, again.Differences, "nothing is released")
		})
	}
}

// What an earlier run has carried follows the source with --update alone.
func TestMigrateUpdate(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), filePlace(t)
	fillStock(t, from)
	migrate(t, 0, "--from", from.url, "--to", to.url)
	from.stock(t, func(database db.Database) {
		for _, pull := range []int{1, 2} {
			_, err := database.UnlockByPull("acme/app"+strconv.Itoa(pull-1), pull)
			require.NoError(t, err)
		}
		acquired, _, err := database.TryLock(stockLock("acme/app1", "p/1", "default", 99))
		require.NoError(t, err)
		require.True(t, acquired)
		require.NoError(t, database.UpdateProjectStatus(stockLock("acme/app1", "p/1", "default", 2).Pull, "default", "p/1", models.AppliedPlanStatus))
	})
	report, _ := migrate(t, exitViolations, "--from", from.url, "--to", to.url)
	require.Len(t, report.Differences, 3, "%+v", report.Differences)
	for _, d := range report.Differences {
		require.Contains(t, d.Detail, "--update")
	}
	report, _ = migrate(t, 0, "--from", from.url, "--to", to.url, "--update")
	require.EqualValues(t, 2, report.Locks.Released)
	require.EqualValues(t, 1, report.Locks.Taken)
	require.EqualValues(t, 1, report.Written)
}

// 100,000 locks take less than a minute.
func TestMigrateLarge(t *testing.T) {
	if os.Getenv(backendtest.FullRounds) != "1" {
		t.Skip("100,000 locks; set ATLANTIS_LOCKS_TEST_FULL=1")
	}
	from := filePlace(t)
	fillMany(t, from, 100_000)
	for _, to := range []*place{redisPlace(t), filePlace(t)} {
		start := time.Now()
		report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
		require.EqualValues(t, 100_000, report.Locks.Taken)
		t.Logf("%v to %s", time.Since(start), to.url)
		require.Less(t, time.Since(start), time.Minute)
	}
}

// Who waits is counted and not carried; what a waiter has been given is carried
// as its lock, without the time in which it has to be claimed.
func TestMigrateQueue(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]*place{"file": filePlace(t), "Redis": redisPlace(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to, pending := filePlace(t), 0
			from.ours(t, func(b lockStore, _ enhanced.StatusStore) {
				config := enhanced.DefaultConfig()
				config.Enabled, config.EnablePriorityQueue = true, true
				require.NoError(t, b.UpdateConfiguration(config))
				request := func(pull int) *enhanced.EnhancedLockRequest {
					p := stockLock("acme/infra", ".", "default", pull).Pull
					return &enhanced.EnhancedLockRequest{Pull: &p, Project: models.NewProject("acme/infra", ".", ""), Workspace: "default", Timeout: enhanced.NoTimeout, Detached: true}
				}
				first, _, err := b.TryAcquireLock(t.Context(), request(1))
				require.NoError(t, err)
				if from.client == nil {
					for _, pull := range []int{2, 3} {
						_, acquired, err := b.TryAcquireLock(t.Context(), request(pull))
						require.NoError(t, err)
						require.False(t, acquired)
					}
					require.NoError(t, b.ReleaseLock(t.Context(), first.ID))
					pending = 2
					return
				}
				// Calls wait on Redis; nothing is left of them when their store closes.
				ctx, cancel := context.WithCancel(t.Context())
				gone := make(chan error)
				go func() {
					_, err := b.AcquireLock(ctx, request(2))
					gone <- err
				}()
				require.Eventually(t, func() bool {
					status, err := b.GetQueueStatus(t.Context())
					return err == nil && status.Size == 1
				}, 10*time.Second, 5*time.Millisecond)
				report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
				require.Equal(t, 1, report.NotCarried.Waiters)
				cancel()
				require.Error(t, <-gone)
			})
			if pending == 0 {
				return
			}
			report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
			require.Equal(t, 1, report.NotCarried.Waiters)
			to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
				locks, err := b.ListLocks(t.Context())
				require.NoError(t, err)
				require.Len(t, locks, 1)
				require.Equal(t, pending, locks[0].OriginalLock.Pull.Num)
				require.Nil(t, locks[0].ExpiresAt)
				require.Equal(t, enhanced.LockStateAcquired, locks[0].State)
			})
		})
	}
}
