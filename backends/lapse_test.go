package backends_test

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

const (
	lapseLease = 10 * time.Second
	lapseDelay = 2 * time.Minute
)

func lapseConfig() *enhanced.EnhancedConfig {
	config := planConfig()
	config.UncleanReleaseDelay = lapseDelay
	return config
}

func boltLapser(t *testing.T, path string) (*planner, *bbolt.DB) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := backends.NewBoltBackend(db, lapseConfig(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return newPlanner(b), db
}

// redisLapser has a server whose clock the function moves.
func redisLapser(t *testing.T) (p *planner, client *redis.Client, pass func(time.Duration)) {
	t.Helper()
	clock := redistest.NewClock(t)
	client = redistest.Start(t, redistest.Options{Env: clock.Env()}).Client()
	passed := time.Duration(0)
	return newPlanner(openRedis(t, client, lapseConfig())), client, func(d time.Duration) {
		passed += d
		clock.Set(passed)
	}
}

// lapse has a pull request take a lock whose lease ends.
func (p *planner) lapse(t *testing.T, number int, path string, pass func(time.Duration)) {
	t.Helper()
	r := request(stockLock("org/app", number, path))
	r.Timeout = lapseLease
	_, acquired, err := p.b.TryAcquireLock(t.Context(), r)
	require.NoError(t, err)
	require.True(t, acquired)
	pass(lapseLease)
	require.Empty(t, p.holder(t, path))
	p.requireSound(t)
}

func TestBoltLapseByTheClock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	synctest.Test(t, func(t *testing.T) {
		p, _ := boltLapser(t, path)
		testLapseByTheClock(t, p, func(d time.Duration) { <-time.After(d) })
	})
}

func TestRedisLapseByTheClock(t *testing.T) {
	t.Parallel()
	p, _, pass := redisLapser(t)
	testLapseByTheClock(t, p, pass)
}

// testLapseByTheClock lets time pass. That a pull request gives locks back and asks no
// more for 30 seconds ends what it has given back, and not the delay of its lapse.
func testLapseByTheClock(t *testing.T, p *planner, pass func(time.Duration)) {
	t.Helper()
	p.lapse(t, 5, "closed", pass)
	require.True(t, p.try(t, 5, "kept"))
	require.False(t, p.try(t, 6, "kept"))
	require.False(t, p.try(t, 6, "closed"))
	p.giveBack(t, 5, "kept")
	pass(time.Second)
	require.True(t, p.try(t, 5, "other"))
	pass(31 * time.Second)
	require.Equal(t, ownerOf(6), p.holder(t, "kept"))
	require.Empty(t, p.holder(t, "closed"))
	p.requireSound(t)

	pass(lapseDelay - 80*time.Second)
	require.Empty(t, p.holder(t, "closed"))
	require.False(t, p.try(t, 7, "closed"))
	wait, found, err := p.b.NextDeadline(t.Context())
	require.NoError(t, err)
	require.True(t, found)
	require.InDelta(t, 24, wait.Seconds(), 24)
	require.Positive(t, wait)
	p.requireSound(t)
	pass(48 * time.Second)
	require.Equal(t, ownerOf(6), p.holder(t, "closed"))
	p.requireSound(t)
}

// A lapse outlives the process that noticed it.
func TestBoltLapseSurvivesARestart(t *testing.T) {
	t.Parallel()
	first, second := filepath.Join(t.TempDir(), "atlantis.db"), filepath.Join(t.TempDir(), "copy.db")
	synctest.Test(t, func(t *testing.T) {
		pass := func(d time.Duration) { <-time.After(d) }
		p, db := boltLapser(t, first)
		p.lapse(t, 5, ".", pass)
		p.stop(t)
		require.NoError(t, db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(second, 0o600) }))
		p, _ = boltLapser(t, second)
		p.requireSound(t)
		require.False(t, p.try(t, 6, "."))
		pass(lapseDelay)
		require.Equal(t, ownerOf(6), p.holder(t, "."))
		require.False(t, p.try(t, 5, "."))
	})
}

// Both stores have the same log of it.
func TestLapsesAreLoggedAlike(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, p *planner, pass func(time.Duration)) []string {
		t.Helper()
		p.lapse(t, 5, ".", pass)
		require.False(t, p.try(t, 6, "."))
		require.True(t, p.try(t, 5, "."))
		_, err := p.Unlock(stockLock("org/app", 5, ".").Project, "default")
		require.NoError(t, err)
		require.True(t, p.try(t, 6, "."))
		p.lapse(t, 5, "forced", pass)
		require.False(t, p.try(t, 6, "forced"))
		_, err = p.Unlock(stockLock("org/app", 5, "forced").Project, "default")
		require.NoError(t, err)
		p.lapse(t, 5, "over", pass)
		require.False(t, p.try(t, 6, "over"))
		pass(lapseDelay)
		require.Equal(t, ownerOf(6), p.holder(t, "over"))
		return p.recorded(t)
	}
	var logs [2][]string
	path := filepath.Join(t.TempDir(), "atlantis.db")
	synctest.Test(t, func(t *testing.T) {
		p, _ := boltLapser(t, path)
		logs[0] = run(t, p, func(d time.Duration) { <-time.After(d) })
	})
	p, _, pass := redisLapser(t)
	logs[1] = run(t, p, pass)
	require.Equal(t, logs[0], logs[1])
}

// One damaged record of a lapse is named and repaired.
func TestLapseCorruptions(t *testing.T) {
	t.Parallel()
	const key = "project/./default/"
	for name, c := range map[string]struct {
		damage func(r *bbolt.Bucket) error
		rules  []string
	}{
		"unreadable": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("v"+key), []byte("{")) },
			rules:  []string{enhanced.RuleReservation},
		},
		"an owner's entry": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("sp5/github.com\x00"+key), []byte{1}) },
			rules:  []string{enhanced.RuleReservation},
		},
	} {
		t.Run("bolt "+name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "atlantis.db")
			synctest.Test(t, func(t *testing.T) {
				p, db := boltLapser(t, path)
				require.True(t, p.try(t, 5, "held"))
				p.lapse(t, 5, ".", func(d time.Duration) { <-time.After(d) })
				require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
					return c.damage(tx.Bucket([]byte(enhanced.RepositoryTag("org/app"))))
				}))
				p.requireRepaired(t, c.rules)
			})
		})
	}
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		p, client, pass := redisLapser(t)
		require.True(t, p.try(t, 5, "held"))
		p.lapse(t, 5, ".", pass)
		ctx, deadlines, queue := t.Context(), repositoryKey("org/app", "deadlines"), repositoryKey("org/app", "queue")
		require.NoError(t, client.ZIncrBy(ctx, deadlines, -1e9, key).Err())
		require.False(t, p.try(t, 6, ".")) // a damaged deadline opens nothing
		p.requireRepaired(t, []string{enhanced.RuleReservation})
		require.NoError(t, client.ZAdd(ctx, queue, redis.Z{Member: "sp5/github.com\n" + key}).Err())
		p.requireRepaired(t, []string{enhanced.RuleReservation})
		require.False(t, p.try(t, 7, "."))
	})
}
