package backends_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// endings is a store in which locks end.
type endings struct {
	*backends.RedisBackend
	client *redis.Client
	state  string
	n      int
}

func newEndings(t *testing.T) *endings {
	t.Helper()
	return endingsOn(t, redistest.Start(t, redistest.Options{}).Client())
}

// endingsOn uses a server for it, on which nothing else is.
func endingsOn(t *testing.T, client *redis.Client) *endings {
	t.Helper()
	require.NoError(t, client.FlushAll(t.Context()).Err())
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false
	return &endings{RedisBackend: openRedis(t, client, config), client: client, state: repositoryKey("org/app", "state")}
}

// end takes n locks and releases them, and returns their last tokens.
func (e *endings) end(t *testing.T, n int) (tokens []string) {
	t.Helper()
	for range n {
		e.n++
		r := by("org/app", fmt.Sprint("p", e.n), "ann")
		r.ID = fmt.Sprint("request ", e.n)
		lock, err := e.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		require.NoError(t, e.ReleaseLock(t.Context(), lock.ID))
		tokens = append(tokens, token(lock))
	}
	return tokens
}

// fields are those of the state that begin so.
func (e *endings) fields(t *testing.T, prefix string) []string {
	t.Helper()
	all := e.client.HGetAll(t.Context(), e.state).Val()
	maps.DeleteFunc(all, func(field, _ string) bool {
		return !strings.HasPrefix(field, prefix)
	})
	return slices.Sorted(maps.Keys(all))
}

// age has entries be of a time that is over, and cleans up.
func (e *endings) age(t *testing.T, fields ...string) {
	t.Helper()
	for _, field := range fields {
		_, token, _ := strings.Cut(e.client.HGet(t.Context(), e.state, field).Val(), " ")
		require.NoError(t, e.client.HSet(t.Context(), e.state, field, "5 "+token).Err())
	}
	_, err := e.CleanupExpiredLocks(t.Context())
	require.NoError(t, err)
}

func (e *endings) counts(t *testing.T) []string {
	t.Helper()
	return []string{countOf(t.Context(), e.client, e.state, "ended"), countOf(t.Context(), e.client, e.state, "forgotten")}
}

// Endings are numbered, and forgotten in that order once their time is over.
func TestRedisForgetsEndingsInOrder(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	tokens := e.end(t, 5)
	require.Equal(t, []string{"e1", "e2", "e3", "e4", "e5"}, e.fields(t, "e"))
	for i, token := range tokens {
		at, of, _ := strings.Cut(e.client.HGet(t.Context(), e.state, fmt.Sprint("e", i+1)).Val(), " ")
		require.Equal(t, token, of)
		_, err := strconv.ParseInt(at, 10, 64)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"5", "0"}, e.counts(t))
	e.age(t, "e4") // it comes after some whose time is not over
	require.Equal(t, []string{"5", "0"}, e.counts(t))
	e.age(t, "e1", "e2")
	require.Equal(t, []string{"e3", "e4", "e5"}, e.fields(t, "e"))
	require.Equal(t, []string{"i" + tokens[2], "i" + tokens[3], "i" + tokens[4]}, e.fields(t, "i"))
	require.Equal(t, []string{"rrequest 3", "rrequest 4", "rrequest 5"}, e.fields(t, "r"))
	require.Equal(t, []string{"5", "2"}, e.counts(t))
	backendtest.RequireSound(t, e)
	e.age(t, "e3", "e4", "e5")
	require.Empty(t, e.fields(t, "e"))
	require.Empty(t, e.fields(t, "i"))
	require.Empty(t, e.fields(t, "r"))
	require.Equal(t, []string{"5", "5"}, e.counts(t))
	backendtest.RequireSound(t, e)
	e.end(t, 1)
	require.Equal(t, []string{"e6"}, e.fields(t, "e"))
	backendtest.RequireSound(t, e)
}

// To find that nothing is to be forgotten yet is to read one entry, not all of them.
func TestRedisLooksForEndingsInOne(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	reads := func() int {
		before := commandsByName(t, e.client)["hmget"]
		_, err := e.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		return commandsByName(t, e.client)["hmget"] - before
	}
	e.end(t, 1)
	e.age(t, "e1")
	none := reads()
	tokens := e.end(t, 5)
	require.Equal(t, none, reads())
	e.age(t, "e2")
	require.Len(t, e.fields(t, "e"), len(tokens)-1)
}

// Whatever ends a lock or a request that never got one has it forgotten.
func TestRedisForgetsEndingsOfAllKinds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	e := &endings{RedisBackend: openRedis(t, client, queueOn()), client: client, state: repositoryKey("org/app", "state")}
	take := func(path string) *enhanced.EnhancedLock {
		lock, err := e.AcquireLock(ctx, by("org/app", path, "ann"))
		require.NoError(t, err)
		return lock
	}
	steps := []func() error{
		func() error { return e.TransferLock(ctx, take("transfer").ID, "user:bob") },
		func() error {
			_, err := e.AcquireLock(ctx, leased("org/app", "lease"))
			if err == nil {
				awaitEnds(t, e, by("org/app", "lease", "").Resource)
				_, err = e.CleanupExpiredLocks(ctx)
			}
			return err
		},
		func() error {
			answers := waits(t, e, by("org/app", take("handed").Resource.Path, "bob"))
			_, err := e.Release(ctx, enhanced.ReleaseRequest{Resource: by("org/app", "handed", "").Resource, Force: true, Actor: "user:max"})
			require.NoError(t, <-answers)
			return err
		},
		func() error {
			if _, err := e.AcquireLock(ctx, request(stockLock("org/app", 5, "pull"))); err != nil {
				return err
			}
			_, err := e.ReleaseByPull(ctx, "org/app", 5, "user:ann")
			return err
		},
	}
	for i, step := range steps {
		require.NoError(t, step())
		require.Len(t, e.fields(t, "e"), i+1)
		backendtest.RequireSound(t, e)
	}
	e.age(t, e.fields(t, "e")...)
	require.Empty(t, e.fields(t, "e"))
	require.Len(t, e.fields(t, "i"), 2, "what is held has its ID")
	backendtest.RequireSound(t, e)
}

// A count that is lost or is none stops nobody, and no number is given twice.
func TestRedisLostCountOfEndings(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	for _, count := range []string{"?", "x", "-3", "1e3", strings.Repeat("9", 20)} {
		t.Run(count, func(t *testing.T) { // not in parallel: they share a server
			e := endingsOn(t, client)
			e.end(t, 5)
			e.age(t, "e1")
			require.NoError(t, setCount(t.Context(), e.client, e.state, "ended", count))
			before := e.client.HMGet(t.Context(), e.state, "e2", "e3", "e4", "e5").Val()
			e.end(t, 3)
			require.Equal(t, before, e.client.HMGet(t.Context(), e.state, "e2", "e3", "e4", "e5").Val())
			require.Len(t, e.fields(t, "e"), 7)
			backendtest.RequireSound(t, e)
			for range 3 { // since numbers are missing
				e.age(t, e.fields(t, "e")...)
			}
			require.Empty(t, e.fields(t, "e"))
			require.Empty(t, e.fields(t, "i"))
			backendtest.RequireSound(t, e)
		})
	}
}

// A count that is lost together with the repository's name is not begun anew by the step
// that finds the name.
func TestRedisLostCountAndName(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	e.end(t, 5)
	e.age(t, "e1")
	require.NoError(t, e.client.HDel(t.Context(), e.state, "counters", "name").Err())
	before := e.client.HMGet(t.Context(), e.state, "e2", "e3", "e4", "e5").Val()
	r := by("org/app", "held", "ann")
	r.Metadata = map[string]string{"not": "common"} // so that it is a step which finds the name
	_, err := e.AcquireLock(t.Context(), r)
	require.NoError(t, err)
	found, err := e.Verify(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, found)
	require.Equal(t, enhanced.RuleForgetCount, found[0].Rule)
	e.end(t, 3)
	require.Equal(t, before, e.client.HMGet(t.Context(), e.state, "e2", "e3", "e4", "e5").Val())
	require.Len(t, e.fields(t, "e"), 7)
	for range 3 { // since numbers are missing
		e.age(t, e.fields(t, "e")...)
	}
	require.Empty(t, e.fields(t, "e"))
	require.Len(t, e.fields(t, "i"), 1, "that of the lock which is held")
}

// Counters that can't be read stop what would change the repository, are named, and are
// counted anew by a repair.
func TestRedisCountersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, counters := range []string{"1 2", "5", "x", "", "these are no numbers at all", strings.Repeat("7 ", 14)} {
		t.Run(counters, func(t *testing.T) {
			t.Parallel()
			e := newEndings(t)
			e.end(t, 3)
			held, err := e.AcquireLock(t.Context(), by("org/app", "held", "ann"))
			require.NoError(t, err)
			require.NoError(t, e.client.HSet(t.Context(), e.state, "counters", counters).Err())
			_, err = e.AcquireLock(t.Context(), by("org/app", "other", "ann"))
			require.ErrorContains(t, err, "value is not an integer")
			require.ErrorContains(t, e.ReleaseLock(t.Context(), held.ID), "value is not an integer")
			found, err := e.Verify(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, found)
			_, err = e.Repair(t.Context(), "user:admin", "a test")
			require.NoError(t, err)
			backendtest.RequireSound(t, e)
			other, err := e.AcquireLock(t.Context(), by("org/app", "other", "ann"))
			require.NoError(t, err)
			require.Greater(t, other.Version, held.Version)
			require.NoError(t, e.ReleaseLock(t.Context(), held.ID))
			backendtest.RequireSound(t, e)
		})
	}
}

// Each damage to what is to be forgotten keeps no lock from its end, is named, and
// once it is repaired all is forgotten.
func TestRedisRepairsEndings(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	set := func(e *endings, values ...any) error { return e.client.HSet(ctx, e.state, values...).Err() }
	count := func(e *endings, name, number string) error { return setCount(ctx, e.client, e.state, name, number) }
	remove := func(e *endings, fields ...string) error { return e.client.HDel(ctx, e.state, fields...).Err() }
	for name, c := range map[string]struct { // there are e3 to e6
		plant func(e *endings) error
		rule  string
	}{
		"a last number that is none":  {func(e *endings) error { return count(e, "ended", "x") }, enhanced.RuleForgetCount},
		"a lower last number":         {func(e *endings) error { return count(e, "ended", "4") }, enhanced.RuleForgetStray},
		"a last number below all":     {func(e *endings) error { return count(e, "ended", "1") }, enhanced.RuleForgetCount},
		"a higher last number":        {func(e *endings) error { return count(e, "ended", "700000") }, enhanced.RuleForgetCount},
		"a first number that is none": {func(e *endings) error { return count(e, "forgotten", "x") }, enhanced.RuleForgetCount},
		"a higher first number":       {func(e *endings) error { return count(e, "forgotten", "4") }, enhanced.RuleForgetStray},
		"a first number beyond":       {func(e *endings) error { return count(e, "forgotten", "9") }, enhanced.RuleForgetCount},
		"neither number":              {func(e *endings) error { return errors.Join(count(e, "ended", "?"), count(e, "forgotten", "?")) }, enhanced.RuleForgetCount},
		"no counter":                  {func(e *endings) error { return remove(e, "counters") }, enhanced.RuleForgetCount},
		"the first one lost":          {func(e *endings) error { return remove(e, "e3") }, enhanced.RuleForgetCount},
		"one in the middle lost":      {func(e *endings) error { return remove(e, "e4") }, enhanced.RuleEnding},
		"the last one lost":           {func(e *endings) error { return remove(e, "e6") }, enhanced.RuleForgetCount},
		"all lost":                    {func(e *endings) error { return remove(e, "e3", "e4", "e5", "e6") }, enhanced.RuleForgetCount},
		"one that can't be read":      {func(e *endings) error { return set(e, "e4", "x") }, enhanced.RuleForgetStray},
		"one of no number":            {func(e *endings) error { return set(e, "ex", "5 7") }, enhanced.RuleForgetStray},
		"one of another number":       {func(e *endings) error { return set(e, "e04", "5 7") }, enhanced.RuleForgetStray},
		"one far away":                {func(e *endings) error { return set(e, "e700000", "5 7") }, enhanced.RuleForgetStray},
		"one of the future": {func(e *endings) error {
			_, token, _ := strings.Cut(e.client.HGet(ctx, e.state, "e4").Val(), " ")
			return set(e, "e4", "9000000000000000 "+token)
		}, enhanced.RuleForgetLate},
		"one of no time": {func(e *endings) error {
			_, token, _ := strings.Cut(e.client.HGet(ctx, e.state, "e4").Val(), " ")
			return set(e, "e4", "x "+token)
		}, enhanced.RuleForgetLate},
		"one before": {func(e *endings) error { return set(e, "e1", "5 7") }, enhanced.RuleForgetStray},
	} {
		t.Run(name, func(t *testing.T) { // not in parallel: they share a server
			e := endingsOn(t, client)
			e.end(t, 6)
			e.age(t, "e1", "e2")
			require.NoError(t, c.plant(e))
			found, err := e.Verify(ctx)
			require.NoError(t, err)
			require.NotEmpty(t, found)
			require.Equal(t, c.rule, found[0].Rule, "%+v", found)
			e.end(t, 3)
			_, err = e.CleanupExpiredLocks(ctx)
			require.NoError(t, err)
			_, err = e.Repair(ctx, "user:admin", "a test")
			require.NoError(t, err)
			backendtest.RequireSound(t, e)
			e.end(t, 3)
			backendtest.RequireSound(t, e)
			for range 3 { // where numbers are missing it takes more than one time
				e.age(t, e.fields(t, "e")...)
			}
			require.Empty(t, e.fields(t, "e"))
			require.Empty(t, e.fields(t, "i"))
			require.Empty(t, e.fields(t, "r"))
			backendtest.RequireSound(t, e)
		})
	}
}

// A step looks at a bounded number of entries, also where none is there.
func TestRedisForgetsEndingsInPieces(t *testing.T) {
	t.Parallel()
	e := newEndings(t)
	e.end(t, 1)
	require.NoError(t, setCount(t.Context(), e.client, e.state, "ended", 600_000))
	e.end(t, 3)
	e.age(t, "e1", "e600001", "e600002")
	require.Equal(t, []string{"600003", "100"}, e.counts(t))
	e.age(t)
	require.Equal(t, []string{"600003", "600000"}, e.counts(t))
	e.age(t)
	require.Equal(t, []string{"600003", "600002"}, e.counts(t))
	e.age(t, "e600003")
	require.Empty(t, e.fields(t, "i"))
	backendtest.RequireSound(t, e)
}
