package backends_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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

// setCount writes one of the counters of a state, whatever it is.
func setCount(ctx context.Context, client redis.Cmdable, state, name string, number any) error {
	words, err := countersOf(ctx, client, state)
	if err != nil {
		return err
	}
	words[slices.Index(countNames(), name)] = fmt.Sprint(number)
	return client.HSet(ctx, state, "counters", strings.Join(words, " ")).Err()
}

// countOf is one of the counters of a state, empty where there are none.
func countOf(ctx context.Context, client redis.Cmdable, state, name string) string {
	words, err := countersOf(ctx, client, state)
	if err != nil {
		return ""
	}
	return words[slices.Index(countNames(), name)]
}

func countNames() []string {
	return strings.Fields("token sequence locks ended wake waiters gone kept closing sets twice forgotten trimmed")
}

func countersOf(ctx context.Context, client redis.Cmdable, state string) ([]string, error) {
	text, err := client.HGet(ctx, state, "counters").Result()
	words := strings.Fields(text)
	if err == nil && len(words) != len(countNames()) {
		err = errors.New("counters: " + text)
	}
	return words, err
}

// Once a release of many locks is over, the first step that logs something forgets it, so
// that the script for common cases decides again.
func TestRedisForgetsThatAPullRequestWasClosing(t *testing.T) {
	t.Parallel()
	for name, closing := range map[string]struct {
		until time.Duration
		stays bool
	}{"over": {-time.Second, false}, "not over": {time.Minute, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndings(t)
			e.end(t, 1)
			until := fmt.Sprint(time.Now().Add(closing.until).UnixMicro())
			require.NoError(t, setCount(t.Context(), e.client, e.state, "closing", until))
			e.end(t, 1)
			if closing.stays {
				require.Equal(t, until, countOf(t.Context(), e.client, e.state, "closing"))
			} else {
				require.Equal(t, "0", countOf(t.Context(), e.client, e.state, "closing"))
			}
		})
	}
}

// The tombstone of a pull request counts, whatever becomes of the step that left it.
func TestRedisTombstoneOfAFailedClose(t *testing.T) {
	t.Parallel()
	c := newClosing(t, 2)
	key := repositoryKey("org/app", "log")
	require.NoError(t, errors.Join(c.client.Rename(t.Context(), key, "test:away").Err(), c.client.Set(t.Context(), key, "x", 0).Err()))
	keeper, ok := c.b.(enhanced.RunKeeper)
	require.True(t, ok)
	require.ErrorContains(t, keeper.ClosePull(t.Context(), c.owner(), ""), "WRONGTYPE")
	require.NoError(t, errors.Join(c.client.Del(t.Context(), key).Err(), c.client.Rename(t.Context(), "test:away", key).Err()))
	c.requireRefused(t)
	c.requireSound(t)
	c.again(t)
	c.requireClosed(t)
}

// A repository of which the first step has failed begins with nothing, not with counters
// that are lost.
func TestRedisFirstStepFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t, documentedUser(t))})
	options, admin := server.Options(), server.Client()
	options.Username, options.Password = leastUser, leastPassword
	client := redis.NewClient(options)
	defer client.Close()
	b := backends.NewRedisBackend(client, nil, nil)
	defer b.Close()
	require.NoError(t, b.HealthCheck(ctx))
	require.NoError(t, admin.Do(ctx, "acl", "setuser", leastUser, "-zadd").Err())
	_, err := b.AcquireLock(ctx, by("org/app", ".", "ann"))
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	require.NoError(t, admin.Do(ctx, "acl", "setuser", leastUser, "+zadd").Err())
	lock, err := b.AcquireLock(ctx, by("org/app", "other", "ann"))
	require.NoError(t, err)
	require.NoError(t, b.ReleaseLock(ctx, lock.ID))
	for _, name := range []string{"waiters", "gone", "kept", "sets", "twice"} {
		require.Equal(t, "0", countOf(ctx, admin, repositoryKey("org/app", "state"), name), name)
	}
	backendtest.RequireSound(t, b)
}

// Where more locks have ended than were counted, they are still decided by the script for
// common cases.
func TestRedisCommonBesideALowCount(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	held, err := e.AcquireLock(t.Context(), by("org/app", "held", "ann"))
	require.NoError(t, err)
	e.end(t, 1)
	before := calls(t, e.client)
	e.end(t, 5)
	asked := calls(t, e.client) - before
	require.NoError(t, setCount(t.Context(), e.client, e.state, "locks", "0"))
	require.NoError(t, e.ReleaseLock(t.Context(), held.ID))
	require.Equal(t, "-1", countOf(t.Context(), e.client, e.state, "locks"))
	before = calls(t, e.client)
	e.end(t, 5)
	require.Equal(t, asked, calls(t, e.client)-before)
}

// Requests that were cancelled on their way have ended without a record: more locks can
// have ended than the log has records. Their numbers are not used again either.
func TestRedisLostCountOfCancelledRequests(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, e *endings) error{
		"the last number": func(t *testing.T, e *endings) error {
			t.Helper()
			return setCount(t.Context(), e.client, e.state, "ended", "?")
		},
		"all counters": func(t *testing.T, e *endings) error {
			t.Helper()
			return e.client.HDel(t.Context(), e.state, "counters").Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			e := endingsOn(t, server.Client())
			e.end(t, 1)
			cancelOnTheirWay(t, server, 8)
			require.Len(t, e.fields(t, "e"), 9)
			e.age(t, "e1", "e2", "e3")
			before := e.client.HGetAll(t.Context(), e.state).Val()
			require.NoError(t, lose(t, e))
			e.end(t, 2)
			cancelOnTheirWay(t, server, 1)
			e.end(t, 1)
			after := e.client.HGetAll(t.Context(), e.state).Val()
			for _, field := range []string{"e4", "e5", "e6", "e7", "e8", "e9"} {
				require.Equal(t, before[field], after[field], field)
			}
			require.Len(t, e.fields(t, "e"), 10)
		})
	}
}

// cancelOnTheirWay has n requests cancelled that have not come to the store.
func cancelOnTheirWay(t *testing.T, server *redistest.Server, n int) {
	t.Helper()
	client := server.Client()
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if slices.Contains(cmd.Args(), any("user:lost")) && !slices.Contains(cmd.Args(), any(enhanced.EventCancelled)) {
			cmd.SetErr(io.ErrUnexpectedEOF)
			return io.ErrUnexpectedEOF
		}
		return next(ctx, cmd)
	}))
	b := openRedis(t, client, queueOn())
	for i := range n {
		r := by("org/app", fmt.Sprint("lost", i), "lost")
		r.Metadata = map[string]string{"not": "common"}
		_, err := b.AcquireLock(t.Context(), r)
		require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	}
	require.NoError(t, b.Close()) // it has cleaned up by then
}

// A repository whose counters can't be read is not carried without its token.
func TestRedisInventoryOfUnreadableCounters(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	_, err := e.AcquireLock(t.Context(), by("org/app", "held", "ann"))
	require.NoError(t, err)
	require.NoError(t, e.client.HSet(t.Context(), e.state, "counters", "1 2").Err())
	found, err := backends.ReadRedisInventory(t.Context(), e.client, "")
	require.NoError(t, err)
	require.Empty(t, found.Locks)
	require.Len(t, found.Problems, 1)
}

// Whichever of the counters is no number, or all: that is named, keeps no other repository
// from being checked, and is repaired.
func TestRedisRepairsEachCounter(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	heals := map[string]bool{"wake": true, "closing": true} // by the next step, and as if nothing was there
	for _, name := range append(countNames(), "all") {
		t.Run(name, func(t *testing.T) { // not in parallel: they share a server
			e := endingsOn(t, client)
			e.end(t, 3)
			held, err := e.AcquireLock(t.Context(), by("org/app", "held", "ann"))
			require.NoError(t, err)
			if name == "all" {
				err = e.client.HSet(t.Context(), e.state, "counters", strings.TrimSpace(strings.Repeat("x ", len(countNames())))).Err()
			} else {
				err = setCount(t.Context(), e.client, e.state, name, "x")
			}
			require.NoError(t, err)
			found, err := e.Verify(t.Context())
			require.NoError(t, err)
			require.Equal(t, heals[name], len(found) == 0, "%v", found)
			_, err = e.Repair(t.Context(), "user:admin", "a test")
			require.NoError(t, err)
			backendtest.RequireSound(t, e)
			e.end(t, 1)
			require.NoError(t, e.ReleaseLock(t.Context(), held.ID))
			e.end(t, 1)
			backendtest.RequireSound(t, e)
			require.Regexp(t, `^\d+( \d+){12}$`, e.client.HGet(t.Context(), e.state, "counters").Val())
		})
	}
}

// However long a log is of which the end is lost, that is one damage.
func TestRedisLostSequenceIsOneDamage(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	e.end(t, 10)
	require.NoError(t, setCount(t.Context(), e.client, e.state, "sequence", 0))
	found, err := e.Verify(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, enhanced.RuleLogSequence, found[0].Rule)
	repaired, err := e.Repair(t.Context(), "user:admin", "a test")
	require.NoError(t, err)
	require.Len(t, repaired, 1)
	backendtest.RequireSound(t, e)
	page, err := e.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	require.Len(t, page.Records, 21, "and one of the repair")
}
