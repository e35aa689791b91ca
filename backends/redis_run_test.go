package backends_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestRedisReservationEndsAfterTheLastTry(t *testing.T) {
	t.Parallel()
	clock := redistest.NewClock(t)
	client := redistest.Start(t, redistest.Options{Env: clock.Env()}).Client()
	passed := time.Duration(0)
	testLastTry(t, newPlanner(openRedis(t, client, planConfig())), func(d time.Duration) {
		passed += d
		clock.Set(passed)
	})
}

func TestRedisPlacesSurviveARestart(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	testRestart(t, newPlanner(openRedis(t, client, planConfig())), func(p *planner) *planner {
		p.stop(t)
		return newPlanner(openRedis(t, client, planConfig()))
	})
}

// One damaged record of a run harms only itself, is named and repaired.
func TestRedisRunCorruptions(t *testing.T) {
	t.Parallel()
	state, queue, deadlines := repositoryKey("org/app", "state"), repositoryKey("org/app", "queue"), repositoryKey("org/app", "deadlines")
	const kept, reserves = "kproject/kept/default/", "sp5/github.com\nproject/kept/default/"
	future := time.Now().Add(1000 * time.Hour).UnixMicro()
	pull7, pull9 := ownerOf(7), ownerOf(9)
	add := func(format string, args ...any) func(ctx context.Context, c *redis.Client) error {
		return func(ctx context.Context, c *redis.Client) error {
			return c.ZAdd(ctx, queue, redis.Z{Member: fmt.Sprintf(format, args...)}).Err()
		}
	}
	set := func(field, value string) func(ctx context.Context, c *redis.Client) error {
		return func(ctx context.Context, c *redis.Client) error { return c.HSet(ctx, state, field, value).Err() }
	}
	count := func(name, number string) func(ctx context.Context, c *redis.Client) error {
		return func(ctx context.Context, c *redis.Client) error { return setCount(ctx, c, state, name, number) }
	}
	edit := func(field string, change func(lines []string)) func(ctx context.Context, c *redis.Client) error {
		return func(ctx context.Context, c *redis.Client) error {
			text, err := c.HGet(ctx, state, field).Result()
			if err != nil {
				return err
			}
			lines := strings.Split(text, "\n")
			change(lines)
			return c.HSet(ctx, state, field, strings.Join(lines, "\n")).Err()
		}
	}
	for name, c := range map[string]struct {
		damage func(ctx context.Context, c *redis.Client) error
		rules  []string
	}{
		"reservation unreadable": {
			damage: set(kept, "{"),
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation, enhanced.RuleDeadlineStray},
		},
		"reservation lost": {
			damage: func(ctx context.Context, c *redis.Client) error { return c.HDel(ctx, state, kept).Err() },
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation, enhanced.RuleDeadlineStray},
		},
		"reservation of the future": {
			damage: edit(kept, func(lines []string) { lines[0], lines[1] = fmt.Sprint(future), fmt.Sprint(future+1) }),
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation, enhanced.RuleDeadlineStray},
		},
		"reservation of a lock with a lease": {
			damage: edit(kept, func(lines []string) { lines[4] = fmt.Sprint(future) }),
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation, enhanced.RuleDeadlineStray},
		},
		"reservation of nobody": {
			damage: edit(kept, func(lines []string) { lines[7] = "user:ann" }),
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation, enhanced.RuleDeadlineStray},
		},
		"reservation beside a lock": {
			damage: func(ctx context.Context, c *redis.Client) error {
				text, err := c.HGet(ctx, state, kept).Result()
				if err != nil {
					return err
				}
				return c.HSet(ctx, state, "kproject/held/default/", text).Err()
			},
			rules: []string{enhanced.RuleReservation, enhanced.RuleReservation},
		},
		"reservation that its owner does not lead to": {
			damage: func(ctx context.Context, c *redis.Client) error { return c.ZRem(ctx, queue, reserves).Err() },
			rules:  []string{enhanced.RuleReservation},
		},
		"owner that leads to no reservation": {
			damage: add("sp5/github.com\nproject/held/default/"),
			rules:  []string{enhanced.RuleReservation},
		},
		"reservation without an end": {
			damage: func(ctx context.Context, c *redis.Client) error {
				return c.ZRem(ctx, deadlines, "project/kept/default/").Err()
			},
			rules: []string{enhanced.RuleReservation},
		},
		"reservation that ends too late": {
			damage: func(ctx context.Context, c *redis.Client) error {
				return c.ZAdd(ctx, deadlines, redis.Z{Score: float64(future), Member: "project/kept/default/"}).Err()
			},
			rules: []string{enhanced.RuleReservation},
		},
		"another count of reservations": {damage: count("kept", "0"), rules: []string{enhanced.RuleReservation}},
		"another count of tombstones":   {damage: count("gone", "7"), rules: []string{enhanced.RuleTombstone}},
		"counters lost": {
			damage: func(ctx context.Context, c *redis.Client) error { return c.HDel(ctx, state, "counters").Err() },
			rules: []string{
				enhanced.RuleReservation, enhanced.RuleTombstone, enhanced.RuleLockCount, enhanced.RuleQueueCount, enhanced.RuleTokenCounter,
				enhanced.RuleForgetCount, enhanced.RuleLogSequence,
			},
		},
		"tombstone unreadable":    {damage: add("t%s\nnull", pull7), rules: []string{enhanced.RuleTombstone, enhanced.RuleTombstone}},
		"tombstone of nobody":     {damage: add("tuser:ann\n5 c1"), rules: []string{enhanced.RuleTombstone, enhanced.RuleTombstone}},
		"tombstone of the future": {damage: add("t%s\n%d c1", pull9, future), rules: []string{enhanced.RuleTombstone, enhanced.RuleTombstone}},
		"mark of the future":      {damage: add("u9\n%d", future), rules: []string{enhanced.RuleTombstone}},
		"mark of no pull request": {damage: add("unine\n1"), rules: []string{enhanced.RuleTombstone}},
		"a member of no kind":     {damage: add("x"), rules: []string{enhanced.RuleQueueStray}},
		"unclaimed lock without an end": {
			damage: edit("lproject/claim/default/", func(lines []string) { lines[2] = "0" }),
			rules:  []string{enhanced.RuleLockUnreadable, enhanced.RuleRequestStray, enhanced.RuleIDStray},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			p := newPlanner(openRedis(t, client, planConfig()))
			p.plan(t)
			require.NoError(t, c.damage(t.Context(), client))
			p.requireRepaired(t, c.rules)
		})
	}
}

// What runs leave costs nobody a command who has none of it.
func TestRedisCommandsBesideRuns(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*enhanced.EnhancedConfig{"without a queue": enhanced.DefaultConfig(), "with a queue": planConfig()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, config)
			try := func() *enhanced.EnhancedLock {
				lock, acquired, err := b.TryAcquireLock(t.Context(), request(stockLock("org/app", 5, ".")))
				require.NoError(t, err)
				require.True(t, acquired)
				return lock
			}
			take := func() (acquired, released int) {
				before := commands(t, client)
				lock := try()
				acquired = commands(t, client) - before
				require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
				return acquired, commands(t, client) - before - acquired
			}
			require.NoError(t, b.ReleaseLock(t.Context(), try().ID)) // the repository exists, and the server has the scripts
			acquired, released := take()
			// TIME, HMGET, EXISTS, ZADD, XADD, HSET, SET, and the script.
			require.LessOrEqual(t, acquired, 8)
			require.LessOrEqual(t, released, 12)
			closed := enhanced.ProjectLockOwner(stockLock("org/app", 9, "."))
			require.NoError(t, b.ClosePull(t.Context(), closed, "c1"))
			beside, releasedBeside := take()
			require.Equal(t, acquired+1, beside, "one looks for its tombstone")
			require.Equal(t, released, releasedBeside)
			require.NoError(t, b.EndRun(t.Context(), closed))
			acquiredAfter, releasedAfter := take()
			require.Equal(t, acquired, acquiredAfter)
			require.Equal(t, released, releasedAfter)
		})
	}
}

// A server without memory still keeps, gives up and grants what is there.
func TestRedisRunsOutOfMemory(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	p := newPlanner(openRedis(t, client, planConfig()))
	p.plan(t)
	letGo := fillMemory(t, client)
	defer letGo()
	require.True(t, p.try(t, 6, "claim"), "a claim takes no place")
	p.giveBack(t, 6, "claim")
	require.False(t, p.try(t, 6, "kept"), "it has its place")
	_, _, err := p.TryLock(stockLock("org/app", 7, "kept"))
	require.ErrorContains(t, err, "OOM", "there is no room for another")
	require.NoError(t, p.DeletePullStatus(stockLock("org/app", 8, ".").Pull))
	_, _, err = p.TryLock(stockLock("org/app", 8, "held"))
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	keeper, ok := p.b.(enhanced.RunKeeper)
	require.True(t, ok)
	require.NoError(t, keeper.EndRun(t.Context(), enhanced.ProjectLockOwner(stockLock("org/app", 5, "."))))
	require.Equal(t, ownerOf(6), p.holder(t, "kept"))
	_, err = p.UnlockByPull("org/app", 6)
	require.NoError(t, err)
	require.Empty(t, p.holder(t, "kept"))
	p.requireSound(t)
}

// A step that can't write all of what it has to changes nothing.
func TestRedisRunsFailAsAWhole(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"deadlines", "queue"} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, planConfig())
			p := newPlanner(b)
			p.plan(t)
			require.False(t, p.try(t, 6, "held"))
			state, key := repositoryKey("org/app", "state"), repositoryKey("org/app", suffix)
			require.NoError(t, client.Rename(t.Context(), key, "test:away").Err())
			require.NoError(t, client.Set(t.Context(), key, "x", 0).Err())
			failed := 0
			for name, step := range map[string]func() error{
				"reserve": func() error {
					_, err := p.UnlockIfOwnedByPull(stockLock("org/app", 5, "held").Project, "default", 5)
					return err
				},
				"end": func() error { return b.EndRun(t.Context(), enhanced.ProjectLockOwner(stockLock("org/app", 5, "."))) },
				"bury": func() error {
					return b.ClosePull(t.Context(), enhanced.ProjectLockOwner(stockLock("org/app", 5, ".")), "c1")
				},
				"close": func() error {
					_, err := b.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
					return err
				},
				"claim": func() error {
					_, _, err := p.TryLock(stockLock("org/app", 6, "claim"))
					return err
				},
			} {
				before, err := client.HGetAll(t.Context(), state).Result()
				require.NoError(t, err)
				if step() == nil {
					continue // it writes nothing there
				}
				failed++
				after, err := client.HGetAll(t.Context(), state).Result()
				require.NoError(t, err)
				require.Equal(t, before, after, name)
			}
			require.GreaterOrEqual(t, failed, 3)
		})
	}
}

// A lock that another resource has under the old key of a reserved one does not
// touch the reservation.
func TestRedisReservationBesideAnOldKey(t *testing.T) {
	t.Parallel()
	p := newPlanner(openRedis(t, redistest.Start(t, redistest.Options{}).Client(), planConfig()))
	p.plan(t)
	other := by("org", "app", "ann")
	other.Resource = enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeProject, Namespace: "org", Path: "app", Workspace: "kept", Name: "default"}
	other.Project, other.Workspace, other.Timeout = other.Resource.Project(), "kept", enhanced.NoTimeout
	_, acquired, err := p.b.TryAcquireLock(t.Context(), other)
	require.NoError(t, err)
	require.True(t, acquired)
	_, err = p.b.LookupLock(t.Context(), by("org/app", "kept", "").Resource)
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	p.requireSound(t)
}

// What a pull request reserves while it is closed does not stay reserved.
func TestRedisReservedWhileClosing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	p := newPlanner(openRedis(t, server.Client(), planConfig()))
	p.plan(t)
	require.False(t, p.try(t, 6, "held"))
	client := server.Client()
	reserved := false
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !reserved && slices.Contains(cmd.Args(), any("released")) { // the step that releases what was listed
			reserved = true
			p.giveBack(t, 5, "held")
		}
		return next(ctx, cmd)
	}))
	closing := openRedis(t, client, planConfig())
	_, err := closing.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.True(t, reserved)
	require.Equal(t, ownerOf(6), p.holder(t, "held"))
	p.requireSound(t)
}
