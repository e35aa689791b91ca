package backends_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// shared is one server with ours and stock.
type shared struct {
	client *goredis.Client
	ours   *backends.RedisBackend
	stock  *redis.RedisDB
}

func share(t *testing.T, config *enhanced.EnhancedConfig) *shared {
	t.Helper()
	client := redistest.Start(t, redistest.Options{}).Client()
	stock, err := redis.NewWithClient(client, "", "")
	require.NoError(t, err)
	return &shared{client, openRedis(t, client, config), stock}
}

func mirroring() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = true
	return config
}

func (s *shared) stockTakes(t *testing.T, lock models.ProjectLock) {
	t.Helper()
	acquired, holder, err := s.stock.TryLock(lock)
	require.NoError(t, err)
	require.True(t, acquired, "%+v", holder)
}

// stockText is a lock as stock writes it.
func stockText(t *testing.T, lock models.ProjectLock) string {
	t.Helper()
	text, err := json.Marshal(lock)
	require.NoError(t, err)
	return string(text)
}

func (s *shared) oursTakes(t *testing.T, lock models.ProjectLock) *enhanced.EnhancedLock {
	t.Helper()
	held, err := s.ours.AcquireLock(t.Context(), request(lock))
	require.NoError(t, err)
	return held
}

// logTypes returns what happened in a repository.
func (s *shared) logTypes(t *testing.T, repository string) (types []string) {
	t.Helper()
	page, err := s.ours.ReadLog(t.Context(), repository, 0, 1000)
	require.NoError(t, err)
	for _, r := range page.Records {
		types = append(types, r.Type)
	}
	return types
}

func TestRedisHonoursStocksLocks(t *testing.T) {
	t.Parallel()
	s := share(t, mirroring())
	mine, other := stockLock("org/app", 5, "."), stockLock("org/app", 6, "a")
	s.stockTakes(t, mine)
	s.stockTakes(t, other)

	lock, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 7, ".")))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, "pr:github.com/org%2Fapp/5", lock.Owner)
	require.True(t, lock.AcquiredAt.Equal(mine.Time))
	require.Empty(t, lock.OriginalLock.Pull.BaseRepo.CloneURL)
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 2)
	require.Equal(t, []string{enhanced.EventAdopted, enhanced.EventAdopted}, s.logTypes(t, "org/app"))

	// Stock unlocks what was adopted, and ours what stock has locked.
	_, err = s.stock.Unlock(mine.Project, mine.Workspace)
	require.NoError(t, err)
	_, err = s.ours.LookupLock(t.Context(), resourceOf(mine))
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 6, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, 1)
	there, err := s.stock.GetLock(other.Project, other.Workspace)
	require.NoError(t, err)
	require.Nil(t, there)
}

// The credential in stock's record goes away when it is taken over.
func TestRedisAdoptsWithoutCredentials(t *testing.T) {
	t.Parallel()
	s := share(t, mirroring())
	lock := stockLock("org/app", 5, ".")
	s.stockTakes(t, lock)
	_, err := s.ours.LookupLock(t.Context(), resourceOf(lock))
	require.NoError(t, err)
	requireNoSecret(t, s.client)
}

// requireNoSecret reads every value of a server.
func requireNoSecret(t *testing.T, client *goredis.Client) {
	t.Helper()
	ctx := t.Context()
	keys, err := client.Keys(ctx, "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		dump, err := client.Dump(ctx, key).Result()
		require.NoError(t, err)
		require.NotContains(t, dump, secret, key)
	}
}

func TestRedisKeepsWhatStockReads(t *testing.T) {
	t.Parallel()
	s := share(t, mirroring())
	lock := stockLock("org/app", 5, ".")
	held := s.oursTakes(t, lock)

	acquired, holder, err := s.stock.TryLock(stockLock("org/app", 6, "."))
	require.NoError(t, err)
	require.False(t, acquired)
	want := lock
	want.Pull.BaseRepo.CloneURL = ""
	want.Time = holder.Time
	require.Equal(t, want, holder)
	require.True(t, lock.Time.Equal(holder.Time))
	all, err := s.stock.List()
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NoError(t, s.ours.ReleaseLock(t.Context(), held.ID))
	s.stockTakes(t, stockLock("org/app", 6, "."))
	// A later release of the first lock doesn't touch stock's.
	require.NoError(t, s.ours.ReleaseLock(t.Context(), held.ID))
	there, err := s.stock.GetLock(lock.Project, lock.Workspace)
	require.NoError(t, err)
	require.Equal(t, 6, there.Pull.Num)
}

// Without PreserveLegacyFormat stock sees nothing of ours, but ours still sees
// what is stock's.
func TestRedisWithoutStocksForm(t *testing.T) {
	t.Parallel()
	config := mirroring()
	config.PreserveLegacyFormat = false
	s := share(t, config)
	s.oursTakes(t, stockLock("org/app", 5, "."))
	all, err := s.stock.List()
	require.NoError(t, err)
	require.Empty(t, all)
	s.stockTakes(t, stockLock("org/app", 6, "a"))
	_, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 7, "a")))
	require.NoError(t, err)
	require.False(t, acquired)
}

// Stock reads, finds nothing, and then writes, whatever came in between: two
// hold the lock. That can only be seen afterwards; until one of them releases
// nobody else gets the lock.
func TestRedisDetectsStocksRace(t *testing.T) {
	t.Parallel()
	first, second, third := stockLock("org/app", 5, "."), stockLock("org/app", 6, "."), stockLock("org/app", 7, ".")
	overwrite := func(t *testing.T, s *shared) {
		t.Helper()
		require.NoError(t, s.client.Set(t.Context(), "pr/org/app/./default/", stockText(t, second), 0).Err())
		holder, acquired, err := s.ours.TryAcquireLock(t.Context(), request(third))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, "pr:github.com/org%2Fapp/5", holder.Owner)
		require.Equal(t, enhanced.EventConflict, s.logTypes(t, "org/app")[1])
	}
	t.Run("the one here releases", func(t *testing.T) {
		t.Parallel()
		s := share(t, mirroring())
		held := s.oursTakes(t, first)
		overwrite(t, s)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), held.ID))
		holder, acquired, err := s.ours.TryAcquireLock(t.Context(), request(third))
		require.NoError(t, err)
		require.False(t, acquired, "stock's is still there")
		require.Equal(t, "pr:github.com/org%2Fapp/6", holder.Owner)
	})
	t.Run("the one of stock releases", func(t *testing.T) {
		t.Parallel()
		s := share(t, mirroring())
		s.oursTakes(t, first)
		overwrite(t, s)
		_, err := s.stock.Unlock(second.Project, second.Workspace)
		require.NoError(t, err)
		holder, acquired, err := s.ours.TryAcquireLock(t.Context(), request(third))
		require.NoError(t, err)
		require.False(t, acquired)
		require.Equal(t, "pr:github.com/org%2Fapp/5", holder.Owner)
		there, err := s.stock.GetLock(first.Project, first.Workspace)
		require.NoError(t, err)
		require.Equal(t, 5, there.Pull.Num, "stock sees the one that is left")
		require.Equal(t, []string{enhanced.EventAcquired, enhanced.EventConflict, enhanced.EventConflict}, s.logTypes(t, "org/app"), "its end is logged, too")
	})
	t.Run("a person ends it", func(t *testing.T) {
		t.Parallel()
		s := share(t, mirroring())
		s.oursTakes(t, first)
		overwrite(t, s)
		_, err := s.ours.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: resourceOf(first), Force: true, Actor: "user:ann", Reason: "asked both",
		})
		require.NoError(t, err)
		s.oursTakes(t, third)
	})
}

// Keys of before Atlantis v0.40 had no project name.
func TestRedisMovesOldKeys(t *testing.T) {
	t.Parallel()
	s := share(t, mirroring())
	lock := stockLock("org/app", 5, "a/b")
	require.NoError(t, s.client.Set(t.Context(), "pr/org/app/a/b/default", stockText(t, lock), 0).Err())
	// Nor does a copy of a lock under any other key of stock's count.
	require.NoError(t, s.client.Set(t.Context(), "pr/backup/of/something", stockText(t, stockLock("org/app", 7, "c")), 0).Err())
	_, acquired, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 6, "a/b")))
	require.NoError(t, err)
	require.False(t, acquired)
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1)
	there, err := s.stock.GetLock(lock.Project, lock.Workspace)
	require.NoError(t, err)
	require.Equal(t, 5, there.Pull.Num)
}

// Two that stock has let in, one under a key of before v0.40: the other one's
// end makes it the holder, and closing its pull request removes it.
func TestRedisTwoKeysOfOneProject(t *testing.T) {
	t.Parallel()
	for _, first := range []int{5, 6} {
		t.Run(fmt.Sprint("close ", first), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := share(t, mirroring())
			require.NoError(t, s.client.Set(ctx, "pr/org/app/a/b/default", stockText(t, stockLock("org/app", 5, "a/b")), 0).Err())
			s.stockTakes(t, stockLock("org/app", 6, "a/b"))
			released, err := s.ours.ReleaseByPull(ctx, "org/app", first, "user:ann")
			require.NoError(t, err)
			require.Len(t, released, 1)
			locks, err := s.ours.ListLocks(ctx)
			require.NoError(t, err)
			require.Len(t, locks, 1)
			require.Equal(t, 11-first, locks[0].OriginalLock.Pull.Num)
			_, acquired, err := s.ours.TryAcquireLock(ctx, request(stockLock("org/app", 7, "a/b")))
			require.NoError(t, err)
			require.False(t, acquired)
			released, err = s.ours.ReleaseByPull(ctx, "org/app", 11-first, "user:ann")
			require.NoError(t, err)
			require.Len(t, released, 1)
			s.oursTakes(t, stockLock("org/app", 7, "a/b"))
		})
	}
}

// Resources that stock doesn't know share a step with those that it does.
func TestRedisStepsOverMixedResources(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := share(t, mirroring())
	project := stockLock("org/app", 5, ".")
	custom := func() *enhanced.EnhancedLockRequest {
		r := request(project)
		r.Resource = enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: "org/app", Path: "x"}
		return r
	}
	take := func(r *enhanced.EnhancedLockRequest, timeout time.Duration) {
		r.Timeout = timeout
		_, err := s.ours.AcquireLock(ctx, r)
		require.NoError(t, err)
	}
	take(request(project), enhanced.NoTimeout)
	take(custom(), enhanced.NoTimeout)
	released, err := s.ours.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	require.NoError(t, err)
	require.Len(t, released, 2)
	s.stockTakes(t, stockLock("org/app", 6, "."))
	_, err = s.stock.Unlock(project.Project, project.Workspace)
	require.NoError(t, err)
	take(request(project), time.Millisecond)
	take(custom(), time.Millisecond)
	awaitEnds(t, s.ours, resourceOf(project), custom().Resource)
	ended, err := s.ours.CleanupExpiredLocks(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, ended)
	s.stockTakes(t, stockLock("org/app", 6, "."))
}

// A lease of another project with the same key of stock's ends for whoever
// comes next.
func TestRedisExpiredLeaseWithTheSameKey(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := share(t, mirroring())
	one, other := stockLock("org/app", 5, "a/b"), stockLock("org/app", 6, "a")
	one.Workspace, other.Workspace, other.Project.ProjectName = "c", "b", "c/"
	require.Equal(t, resourceOf(one).LegacyKey(), resourceOf(other).LegacyKey())
	r := request(one)
	r.Timeout = time.Millisecond
	_, err := s.ours.AcquireLock(ctx, r)
	require.NoError(t, err)
	awaitEnds(t, s.ours, resourceOf(one))
	s.oursTakes(t, other)
}

// A conflict is ended by one of the two or by a person, not by a transfer.
func TestRedisTransferInConflict(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := share(t, mirroring())
	held := s.oursTakes(t, stockLock("org/app", 5, "."))
	rival := stockText(t, stockLock("org/app", 6, "."))
	require.NoError(t, s.client.Set(ctx, "pr/org/app/./default/", rival, 0).Err())
	require.NoError(t, s.ours.TransferLock(ctx, held.ID, "pr:github.com/org%2Fapp/7"))
	value, err := s.client.Get(ctx, "pr/org/app/./default/").Result()
	require.NoError(t, err)
	require.Equal(t, rival, value)
	require.Equal(t, []string{enhanced.EventAcquired, enhanced.EventConflict, enhanced.EventTransferred}, s.logTypes(t, "org/app"))
	lock, err := s.ours.LookupLock(ctx, held.Resource)
	require.NoError(t, err)
	require.NoError(t, s.ours.ReleaseLock(ctx, lock.ID))
	holder, acquired, err := s.ours.TryAcquireLock(ctx, request(stockLock("org/app", 8, ".")))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, 6, holder.OriginalLock.Pull.Num)
}

// A key of stock's that can't be read counts as held, alone.
func TestRedisUnreadableStockRecord(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*shared) error{
		"text": func(s *shared) error {
			return s.client.Set(t.Context(), "pr/org/app/./default/", `{"Project":`, 0).Err()
		},
		"another type": func(s *shared) error { return s.client.RPush(t.Context(), "pr/org/app/./default/", "x").Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := share(t, mirroring())
			s.oursTakes(t, stockLock("org/app", 5, "a"))
			require.NoError(t, plant(s))
			_, _, err := s.ours.TryAcquireLock(t.Context(), request(stockLock("org/app", 6, ".")))
			require.ErrorIs(t, err, enhanced.ErrCorruptRecord)
			require.ErrorContains(t, err, "pr/org/app/./default/")
			locks, err := s.ours.ListLocks(t.Context())
			require.NoError(t, err)
			require.Len(t, locks, 1)
			require.Equal(t, "a", locks[0].Resource.Path)
		})
	}
}
