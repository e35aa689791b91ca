package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	stock "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A record that can't be read is named, and the others are carried.
func TestMigrateDamaged(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	fillStock(t, from)
	fillOurs(t, from)
	from.file(t, func(file *bbolt.DB) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			ours := tx.Bucket([]byte(enhanced.RepositoryTag("acme/infra")))
			return errors.Join(
				tx.Bucket([]byte(stockLocksBucket)).Put([]byte("acme/bad/x/default/"), []byte(`{"hunter2`)),
				ours.Put([]byte("lproject/p%2F1/default/"), []byte("hunter2")),
				tx.Bucket([]byte("pulls")).Put([]byte("github.com::acme/bad::1"), []byte("hunter2")),
				tx.Bucket([]byte(stockCommandsBucket)).Put([]byte("plan/lock"), []byte("hunter2")),
			)
		}))
	})
	report, _ := migrate(t, exitViolations, "--from", from.url, "--to", to.url)
	require.EqualValues(t, stockLocks+4, report.Locks.Taken)
	var named []string
	for _, d := range report.Differences {
		named = append(named, d.Record)
	}
	tag := enhanced.RepositoryTag("acme/infra")
	require.Subset(t, named, []string{
		"runLocks/acme/bad/x/default/", "enhanced/" + tag + "/lproject/p%2F1/default/", "pulls/github.com::acme/bad::1", "globalLocks/plan/lock",
	})
	require.NotContains(t, to.bytes(t), "hunter2")
}

// The same of a damaged record in Redis.
func TestMigrateDamagedRedis(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), filePlace(t)
	fillOurs(t, from)
	state := "atlantis:lock:{" + enhanced.RepositoryTag("acme/infra") + "}:state"
	for field, value := range map[string]string{"lproject/p%2F1/default/": "hunter2", "dproject/p%2F2/default/": "hunter2"} {
		require.NoError(t, from.client.HSet(t.Context(), state, field, value).Err())
	}
	require.NoError(t, from.client.LPush(t.Context(), "pr/acme/list/x/default/", "hunter2").Err())
	report, _ := migrate(t, exitViolations, "--from", from.url, "--to", to.url)
	require.EqualValues(t, 3, report.Locks.Taken)
	require.Len(t, report.Differences, 3, "%+v", report.Differences)
	require.NotContains(t, to.bytes(t), "hunter2")
}

// A migration that is killed goes on where it was.
func TestMigrateKilled(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	fillMany(t, from, 2000)
	killed := false
	for range 20 {
		program := exec.CommandContext(t.Context(), "atlantis-locks", "migrate", "--from", from.url, "--to", to.url)
		require.NoError(t, program.Start())
		// Until something has been carried.
		deadline := time.Now().Add(20 * time.Second)
		for carried := int64(0); carried < 200 && time.Now().Before(deadline); runtime.Gosched() {
			var err error
			carried, err = to.client.DBSize(t.Context()).Result()
			require.NoError(t, err)
		}
		require.NoError(t, program.Process.Kill())
		if killed = program.Wait() != nil; killed {
			break
		}
		require.NoError(t, to.client.FlushAll(t.Context()).Err())
	}
	require.True(t, killed, "every run was faster")
	report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
	t.Logf("%d were there already", report.Locks.Already)
	require.Equal(t, 2000, report.Locks.Already+int(report.Locks.Taken))
	require.NotZero(t, report.Locks.Taken)
	require.NotZero(t, report.Locks.Already)
	to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 2000)
		violations, err := b.(enhanced.Verifier).Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations)
	})
}

// fillMany is what stock Atlantis writes into a file for n locks.
func fillMany(t *testing.T, p *place, n int) {
	t.Helper()
	fillStock(t, p)
	p.file(t, func(file *bbolt.DB) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket([]byte(stockLocksBucket))
			for i := stockLocks; i < n; i++ {
				lock := stockLock("acme/app"+strconv.Itoa(i%100), "p/"+strconv.Itoa(i), "default", i+1)
				text, err := json.Marshal(lock)
				if err == nil {
					err = bucket.Put([]byte(models.GenerateLockKey(lock.Project, lock.Workspace)), text)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
	})
}

// A source that is in use is read until two readings agree.
func TestMigrateLive(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), filePlace(t)
	fillStock(t, from)
	started, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		database, err := stock.NewWithClient(from.client.(*redis.Client), "", "")
		if err != nil {
			t.Error(err)
			return
		}
		for i := 0; ; i++ {
			lock := stockLock("acme/live", "p/"+strconv.Itoa(i%7), "default", 1000+i)
			if _, _, err := database.TryLock(lock); err != nil {
				t.Error(err)
			}
			if i%7 == 6 {
				for j := i - 6; j <= i; j++ {
					if _, err := database.UnlockByPull("acme/live", 1000+j); err != nil {
						t.Error(err)
					}
				}
			}
			if i == 20 {
				close(started)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	<-started
	// While it goes on, what has changed last is at most a difference.
	code, stdout, stderr := runProgram(t, "migrate", "--from", from.url, "--to", to.url)
	require.Contains(t, []int{0, exitViolations}, code, "%s%s", stdout, stderr)
	close(stop)
	<-stopped
	// The final pass, once nobody uses the source.
	report, _ := migrate(t, 0, "--from", from.url, "--to", to.url, "--update")
	require.Equal(t, 2, report.Passes, "two readings")
	require.Empty(t, report.Differences)
	locks := 0
	from.stock(t, func(database db.Database) {
		all, err := database.List()
		require.NoError(t, err)
		locks = len(all)
	})
	to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		all, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, all, locks)
	})
}

// What changes between two readings is followed, in a store of ours and in one of
// stock's: what the same run has put there is its own.
func TestMigrateFollows(t *testing.T) {
	t.Parallel()
	for name, scheme := range map[string]string{"ours": "", "stock's": stockScheme} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := redisPlace(t), filePlace(t)
			fillStock(t, from)
			env := environment{stderr: io.Discard, getenv: func(string) string { return "" }}
			o := migrateOptions{from: from.url, to: scheme + to.url}
			source, target, err := o.stores(&cobra.Command{}, env)
			require.NoError(t, err)
			m := newMigration(source, target, &migrateReport{}, env)
			m.actor = "user:ann"
			require.NoError(t, target.open(false, true, env))
			require.NoError(t, target.prepare(t.Context(), scheme == ""))
			first, err := source.inventory(t.Context())
			require.NoError(t, err)
			from.stock(t, func(database db.Database) {
				_, err := database.UnlockByPull("acme/app0", 1)
				require.NoError(t, err)
				_, err = database.UnlockByPull("acme/app1", 2)
				require.NoError(t, err)
				_, _, err = database.TryLock(stockLock("acme/app1", "p/1", "default", 99))
				require.NoError(t, err)
				require.NoError(t, database.DeletePullStatus(stockLock("acme/app1", "p/1", "default", 2).Pull))
				require.NoError(t, database.UnlockCommand(command.Apply))
			})
			last, err := m.carry(t.Context(), first)
			require.NoError(t, err)
			require.Equal(t, 3, m.report.Passes, "one of what was, and two that agree")
			have, err := target.inventory(t.Context())
			require.NoError(t, err)
			m.compare(last, have)
			require.Empty(t, m.report.Differences)
			require.Len(t, have.Locks, stockLocks-1)
			require.Empty(t, have.Statuses)
			require.Empty(t, have.CommandLocks)
			require.NoError(t, errors.Join(source.close(), target.close()))
		})
	}
}

// One that is cancelled says how far it came, and goes on the next time.
func TestMigrateCancelled(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), redisPlace(t)
	fillStock(t, from)
	env := environment{stderr: io.Discard, getenv: func(string) string { return "" }}
	o := migrateOptions{from: from.url, to: to.url}
	ctx, cancel := context.WithCancel(t.Context())
	carry := func() (*migrateReport, error) {
		source, target, err := o.stores(&cobra.Command{}, env)
		require.NoError(t, err)
		m := newMigration(source, target, &migrateReport{}, env)
		require.NoError(t, target.prepare(t.Context(), true))
		target.backend = &cancelling{lockStore: target.backend, after: 20, cancel: cancel}
		_, err = o.run(ctx, m)
		m.report.settle()
		require.NoError(t, errors.Join(source.close(), target.close()))
		return m.report, err
	}
	report, err := carry()
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, report.Compared)
	require.Less(t, report.Locks.Taken, int64(stockLocks))
	report2, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
	require.Equal(t, stockLocks, report2.Locks.Already+int(report2.Locks.Taken))
	require.GreaterOrEqual(t, report2.Locks.Already, int(report.Locks.Taken))
}

// cancelling ends the migration's context after some locks.
type cancelling struct {
	lockStore
	after  int64
	calls  atomic.Int64
	cancel func()
}

func (c *cancelling) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	if c.calls.Add(1) == c.after {
		c.cancel()
	}
	return c.lockStore.TryAcquireLock(ctx, request)
}
