package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	stockredis "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// While the store is away the legacy database answers; once it is back, it has
// all that was decided.
func TestFallbackAnswersAndComesBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := s.ready(t)
	for _, path := range []string{"kept", "given back", "passed on", "pull/a", "pull/b"} {
		number := 5
		if strings.HasPrefix(path, "pull") {
			number = 9
		}
		take(t, adapter, lockOf(fallbackRepo, number, path))
	}
	take(t, adapter, lockOf("org/app-prod", 9, ".")) // stock would free it with org/app
	require.NoError(t, adapter.HealthCheck(t.Context()))

	s.cut()
	acquired, _ := tryFor(t, adapter, 6, "new")
	require.True(t, acquired)
	status := adapter.Fallback()
	require.Equal(t, enhanced.FallbackOpen, status.State)
	require.ErrorContains(t, adapter.HealthCheck(t.Context()), "degraded: fallback open since "+status.Since.Format(time.RFC3339))
	require.NoError(t, adapter.Ping(), "Atlantis goes on")
	acquired, holder := tryFor(t, adapter, 7, "new")
	require.False(t, acquired)
	require.Equal(t, 6, holder.Pull.Num)
	acquired, holder = tryFor(t, adapter, 7, "kept")
	require.False(t, acquired)
	require.Equal(t, 5, holder.Pull.Num)
	_, holder = tryFor(t, adapter, 5, "kept")
	require.Equal(t, 5, holder.Pull.Num, "its own")

	gone, err := adapter.Unlock(models.NewProject(fallbackRepo, "given back", ""), "default")
	require.NoError(t, err)
	require.Equal(t, 5, gone.Pull.Num)
	gone, err = adapter.UnlockIfOwnedByPull(models.NewProject(fallbackRepo, "passed on", ""), "default", 6)
	require.NoError(t, err)
	require.Nil(t, gone, "it is not its")
	gone, err = adapter.UnlockIfOwnedByPull(models.NewProject(fallbackRepo, "passed on", ""), "default", 5)
	require.NoError(t, err)
	require.NotNil(t, gone)
	acquired, _ = tryFor(t, adapter, 8, "passed on")
	require.True(t, acquired)
	released, err := adapter.UnlockByPull(fallbackRepo, 9)
	require.NoError(t, err)
	require.Len(t, released, 2)
	all, err := adapter.List()
	require.NoError(t, err)
	require.Len(t, all, 5) // kept, new, passed on, org/app-prod, org/warm
	got, err := adapter.GetLock(models.NewProject(fallbackRepo, "new", ""), "default")
	require.NoError(t, err)
	require.Equal(t, 6, got.Pull.Num)
	_, err = adapter.LockWithTimeout(t.Context(), models.NewProject(fallbackRepo, "enhanced", ""), "default", models.User{Username: "alice"}, time.Minute)
	require.Error(t, err, "the enhanced methods have no fallback")

	s.heal(t, adapter)
	require.Empty(t, adapter.Fallback().Unsettled)
	for path, owner := range map[string]string{"kept": pullText(5), "new": pullText(6), "passed on": pullText(8), "given back": "", "pull/a": "", "pull/b": ""} {
		require.Equal(t, owner, s.inStore(t, path), path)
	}
	lock, err := s.other.LookupLock(t.Context(), fallbackResource("new"))
	require.NoError(t, err)
	require.Nil(t, lock.ExpiresAt, "it has no lease")
	require.NoError(t, adapter.HealthCheck(t.Context()))
	acquired, _ = tryFor(t, adapter, 7, "given back")
	require.True(t, acquired)
	require.Len(t, s.told(enhanced.EventFallbackOpened), 1)
	require.Len(t, s.told(enhanced.EventFallbackClosed), 1)
	require.Empty(t, s.told(enhanced.EventConflict))

	records, err := s.legacy.List()
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(records), token, "what it writes has no credential")
}

// What others do in the store reaches the legacy database.
func TestFallbackFollowsOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := s.ready(t)
	has := func(path string, number int) {
		t.Helper()
		backendtest.Eventually(t, fmt.Sprintf("the legacy database has %d on %s", number, path), func() bool { return s.inLegacy(t, path) == number })
	}
	taken := s.takeElsewhere(t, 5, "a", enhanced.NoTimeout)
	has("a", 5)
	require.NoError(t, s.other.TransferLock(t.Context(), taken.ID, "user:alice"))
	has("a", -1)
	_, err := s.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource("a"), Force: true, Actor: "user:bob"})
	require.NoError(t, err)
	has("a", 0)
	lease := s.takeElsewhere(t, 6, "lease", time.Hour)
	has("lease", 6)
	s.endLease(t, lease)
	has("lease", 0)

	// What this adapter's own people take is there at once.
	_, err = adapter.LockWithTimeout(t.Context(), models.NewProject(fallbackRepo, "people", ""), "default", models.User{Username: "alice"}, time.Minute)
	require.NoError(t, err)
	require.Equal(t, -1, s.inLegacy(t, "people"))
	s.cut()
	_, _, err = adapter.TryLock(lockOf(fallbackRepo, 0, "people"))
	require.ErrorIs(t, err, enhanced.ErrLockExists, "Atlantis would take number 0 for its own")
	require.Equal(t, enhanced.FallbackOpen, adapter.Fallback().State)
	s.heal(t, adapter)
	require.Equal(t, "user:alice", s.inStore(t, "people"))
}

// The fallback stays shut where the legacy database is not known to be up to
// date, and the error says why.
func TestFallbackFailsClosed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		begin func(t *testing.T, s *site) *enhanced.LockingAdapter
		want  string
	}{
		"the store was never reached": {func(t *testing.T, s *site) *enhanced.LockingAdapter {
			t.Helper()
			s.cut()
			return s.start(t, s.legacy)
		}, "has not reached the store yet"},
		"a record of the store can't be read": {func(t *testing.T, s *site) *enhanced.LockingAdapter {
			t.Helper()
			s.takeElsewhere(t, 5, "bad", enhanced.NoTimeout)
			client := s.server.Client()
			keys, err := client.Keys(t.Context(), s.config.RedisKeyPrefix+"{*}:state").Result()
			require.NoError(t, err)
			require.Len(t, keys, 1)
			require.NoError(t, client.HSet(t.Context(), keys[0], "l"+fallbackResource("bad").Key(), "garbage").Err())
			adapter := s.start(t, s.legacy)
			take(t, adapter, lockOf("org/warm", 1, "."))
			s.cut()
			return adapter
		}, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, redistest.Start(t, redistest.Options{}))
			adapter := c.begin(t, s)
			require.Equal(t, enhanced.FallbackClosed, adapter.Fallback().State)
			_, _, err := adapter.TryLock(lockOf(fallbackRepo, 5, "x"))
			require.ErrorIs(t, err, enhanced.ErrBackend)
			require.ErrorContains(t, err, "the fallback is closed")
			require.ErrorContains(t, err, c.want)
			_, err = adapter.Unlock(models.NewProject("org/warm", ".", ""), "default")
			require.ErrorContains(t, err, c.want)
			require.Error(t, adapter.Ping())
			require.Empty(t, s.told(enhanced.EventFallbackOpened))
		})
	}
}

// Where the fallback would not be safe, or would be none, there is none.
func TestFallbackIsRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	for name, c := range map[string]struct {
		legacy func(s *site) db.Database
		edit   func(*enhanced.EnhancedConfig)
		want   string
	}{
		"several replicas":   {nil, func(c *enhanced.EnhancedConfig) { c.FallbackSingleReplica = false }, "fallback_single_replica: true, which is false"},
		"switched off":       {nil, func(c *enhanced.EnhancedConfig) { c.LegacyFallback = false }, "legacy_fallback: false"},
		"no legacy database": {func(*site) db.Database { return nil }, nil, "no legacy database"},
		"in the same store": {func(s *site) db.Database {
			stock, err := stockredis.NewWithClient(redis.NewClient(s.server.Options()), "", "")
			require.NoError(t, err)
			return stock
		}, nil, "in the same store"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, server)
			legacy := s.legacy
			if c.legacy != nil {
				legacy = c.legacy(s)
			}
			if c.edit != nil {
				c.edit(s.config)
			}
			adapter := s.start(t, legacy)
			take(t, adapter, lockOf("org/"+strings.ReplaceAll(name, " ", "-"), 5, "."))
			status := adapter.Fallback()
			require.Equal(t, enhanced.FallbackOff, status.State)
			require.Contains(t, status.Reason, c.want)
			stats, err := adapter.GetEnhancedStats(t.Context())
			require.NoError(t, err)
			require.Equal(t, status, stats.Fallback)
			require.Zero(t, s.inLegacy(t, "."))
			s.cut()
			_, _, err = adapter.TryLock(lockOf(fallbackRepo, 6, "."))
			require.ErrorIs(t, err, enhanced.ErrBackend)
		})
	}
}

// Why the configuration asks for a single replica: two that say so and are not
// grant one lock twice. It is found out, and frozen until a person decides.
func TestFallbackOfSeveralReplicas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	one, two := newSite(t, server), newSite(t, server)
	first, second := one.ready(t), two.start(t, two.legacy)
	_, _, err := second.TryLock(lockOf("org/warm", 2, "."))
	require.NoError(t, err)
	one.cut()
	two.cut()
	acquired, _ := tryFor(t, first, 5, "x")
	require.True(t, acquired)
	acquired, _ = tryFor(t, second, 6, "x")
	require.True(t, acquired, "both believe that they hold it")

	one.heal(t, first)
	require.Equal(t, pullText(5), one.inStore(t, "x"))
	two.heal(t, second)
	requireFrozen(t, one, "x", 5, 6)
	require.Len(t, two.told(enhanced.EventConflict), 1)
	for _, adapter := range []*enhanced.LockingAdapter{first, second} {
		for _, number := range []int{5, 6, 7} {
			_, _, err := adapter.TryLock(lockOf(fallbackRepo, number, "x"))
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			require.ErrorContains(t, err, "pull request 5 on github.com")
			require.ErrorContains(t, err, "pull request 6 on github.com")
		}
		released, err := adapter.UnlockByPull(fallbackRepo, 5)
		require.NoError(t, err)
		require.Empty(t, released)
	}
	gone, err := first.Unlock(models.NewProject(fallbackRepo, "x", ""), "default")
	require.NoError(t, err)
	require.NotNil(t, gone)
	acquired, _ = tryFor(t, second, 7, "x")
	require.True(t, acquired, "a person has decided")
}

func requireFrozen(t *testing.T, s *site, path string, numbers ...int) {
	t.Helper()
	owner := s.inStore(t, path)
	require.Contains(t, owner, "user:frozen")
	for _, number := range numbers {
		require.Contains(t, enhanced.DescribeOwner(owner), fmt.Sprintf("pull request %d on github.com", number))
	}
}

// A fresh adapter finds locks that only one side has, or both have for others.
func TestFallbackAgreesAtTheStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	legacy := func(number int, path string, url string) {
		lock := lockOf(fallbackRepo, number, path)
		lock.Pull.BaseRepo.CloneURL = url
		take(t, s.legacy, lock)
	}
	const url = "https://bot:t@github.com/org/app.git"
	legacy(5, "stock has it", url)
	legacy(5, "a crash has left it", "")
	s.takeElsewhere(t, 6, "store has it", enhanced.NoTimeout)
	legacy(5, "both told", url)
	s.takeElsewhere(t, 6, "both told", enhanced.NoTimeout)
	legacy(5, "one told", "")
	s.takeElsewhere(t, 6, "one told", enhanced.NoTimeout)
	legacy(5, "released since", "")
	released := s.takeElsewhere(t, 5, "released since", enhanced.NoTimeout)
	require.NoError(t, s.other.ReleaseLock(t.Context(), released.ID))

	adapter := s.ready(t)
	require.Empty(t, adapter.Fallback().Unsettled)
	for path, want := range map[string]struct {
		store  string
		legacy int
	}{
		"stock has it":        {pullText(5), 5},
		"a crash has left it": {pullText(5), 5},
		"store has it":        {pullText(6), 6},
		"one told":            {pullText(6), 6},
		"released since":      {"", 0},
	} {
		require.Equal(t, want.store, s.inStore(t, path), path)
		require.Equal(t, want.legacy, s.inLegacy(t, path), path)
	}
	requireFrozen(t, s, "both told", 5, 6)
	require.Equal(t, -1, s.inLegacy(t, "both told"))
}

// A store that comes back without its data gets back what was held.
func TestFallbackRestoresALostStore(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := s.ready(t)
	take(t, adapter, lockOf(fallbackRepo, 5, "x"))
	s.server.Kill()
	acquired, holder := tryFor(t, adapter, 6, "x")
	require.False(t, acquired)
	require.Equal(t, 5, holder.Pull.Num)
	require.NoError(t, s.server.Run())
	s.heal(t, adapter)
	require.Equal(t, pullText(5), s.inStore(t, "x"))
}

// A store that others use goes on while this adapter can't reach it.
func TestFallbackWhileOthersGoOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := s.ready(t)
	take(t, adapter, lockOf(fallbackRepo, 5, "taken away"))
	take(t, adapter, lockOf(fallbackRepo, 5, "taken away, told again"))
	s.cut()
	acquired, _ := tryFor(t, adapter, 5, "contended")
	require.True(t, acquired)
	_, holder := tryFor(t, adapter, 5, "taken away, told again")
	require.Equal(t, 5, holder.Pull.Num)
	s.takeElsewhere(t, 6, "contended", enhanced.NoTimeout)
	for _, path := range []string{"taken away", "taken away, told again"} {
		_, err := s.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource(path), Force: true, Actor: "user:bob"})
		require.NoError(t, err)
	}
	s.heal(t, adapter)
	requireFrozen(t, s, "contended", 5, 6)
	require.Empty(t, s.inStore(t, "taken away"), "a person has decided that")
	require.Equal(t, pullText(5), s.inStore(t, "taken away, told again"), "it was told that it holds it")
	require.Len(t, s.told(enhanced.EventConflict), 1)
}

// A fallback in use can't be switched off: what it granted would be forgotten.
func TestFallbackCantBeSwitchedOffInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	adapter := s.ready(t)
	s.cut()
	tryFor(t, adapter, 5, "x")
	off := fallbackConfig()
	off.LegacyFallback = false
	err := adapter.UpdateConfiguration(off)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "legacy_fallback: false")
	s.heal(t, adapter)
	require.NoError(t, adapter.UpdateConfiguration(off))
	require.Equal(t, enhanced.FallbackOff, adapter.Fallback().State)
	take(t, adapter, lockOf(fallbackRepo, 6, "y"))
	require.Zero(t, s.inLegacy(t, "y"))
	require.NoError(t, adapter.UpdateConfiguration(fallbackConfig()))
	take(t, adapter, lockOf(fallbackRepo, 6, "z"))
	require.Equal(t, 6, s.inLegacy(t, "y"), "it has agreed anew")
}
