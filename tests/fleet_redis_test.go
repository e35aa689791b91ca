package tests

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// tryLocker is a replica of Atlantis, stock or ours.
type tryLocker interface {
	TryLock(lock models.ProjectLock) (bool, models.ProjectLock, error)
}

// Replicas of stock and of ours want the same lock on one Redis. Ours never
// grant it twice. Stock's own race stays: between stock and ours it is detected
// each time.
func TestFleetOfStockAndOurs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	var locks []tryLocker
	for range 3 {
		stock, err := redis.NewWithClient(server.Client(), "", "")
		require.NoError(t, err)
		locks = append(locks, stock)
	}
	const stocks = 3
	config := enhanced.DefaultConfig()
	config.Enabled, config.PreserveLegacyFormat = true, true
	var ours *backends.RedisBackend
	for range 3 {
		ours = backends.NewRedisBackend(server.Client(), config, nil)
		t.Cleanup(func() { require.NoError(t, ours.Close()) })
		manager := enhanced.NewEnhancedLockManager(ours, config, nil)
		locks = append(locks, enhanced.NewLockingAdapter(manager, ours, config, nil, nil))
	}

	doubleOurs, doubleStock, doubleMixed := 0, 0, 0
	known := uint64(0) // the log's records of earlier rounds
	rounds := 0
	for least := backendtest.Rounds(3000); rounds < least || doubleMixed == 0 && rounds < 20*least; rounds++ {
		path := fmt.Sprintf("p%d", rounds)
		winners := race(t, locks, path)
		stock, our := 0, 0
		for _, i := range winners {
			if i < stocks {
				stock++
			} else {
				our++
			}
		}
		require.NotEmpty(t, winners, "nobody got %s", path)
		resource := enhanced.ProjectResource(models.NewProject("org/app", path, ""), "default")
		holder, err := ours.LookupLock(t.Context(), resource)
		require.NoError(t, err)
		conflict := false
		page, err := ours.ReadLog(t.Context(), "org/app", known, 100)
		require.NoError(t, err)
		for _, r := range page.Records {
			known = r.Sequence
			conflict = conflict || r.Type == enhanced.EventConflict && r.Resource == resource && r.Token == holder.Version
		}
		switch {
		case our > 1:
			doubleOurs++
		case our == 1 && stock > 0:
			doubleMixed++
			require.True(t, conflict, "%s was granted by stock and by ours, and nobody has noticed", path)
		case stock > 1:
			doubleStock++
		}
	}
	t.Logf("%d rounds: granted twice by ours %d, by stock %d, by stock and ours %d, all of these detected", rounds, doubleOurs, doubleStock, doubleMixed)
	require.Zero(t, doubleOurs)
	require.Positive(t, doubleMixed, "stock's race with ours was never met; the run is void")
	violations, err := ours.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// race has all replicas try to lock a project at the same time, each for a pull
// request of its own, and returns who was told that it has it.
func race(t *testing.T, locks []tryLocker, path string) (winners []int) {
	t.Helper()
	var mu sync.Mutex
	backendtest.Together(len(locks), func(i int) {
		acquired, _, err := locks[i].TryLock(models.ProjectLock{
			Project: models.NewProject("org/app", path, ""), Workspace: "default",
			User: models.User{Username: "runner" + strconv.Itoa(i)}, Time: time.Now(),
			Pull: models.PullRequest{Num: i + 1, BaseRepo: models.Repo{
				FullName: "org/app", VCSHost: models.VCSHost{Hostname: "github.com"},
			}},
		})
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		if acquired {
			winners = append(winners, i)
		}
	})
	return winners
}

// Replicas of stock and of ours take turns on one Redis, in any order. Together
// they answer as one stock Atlantis that is alone.
func TestFleetTakesTurns(t *testing.T) {
	alone, shared := redistest.Start(t, redistest.Options{}).Client(), redistest.Start(t, redistest.Options{}).Client()
	reference, err := redis.NewWithClient(alone, "", "")
	require.NoError(t, err)
	stock, err := redis.NewWithClient(shared, "", "")
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.Enabled = true
	turns := []db.Database{stock}
	var ours *backends.RedisBackend
	for range 2 {
		ours = backends.NewRedisBackend(shared, config, nil)
		t.Cleanup(func() { require.NoError(t, ours.Close()) })
		turns = append(turns, enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(ours, config, nil), ours, config, nil, nil))
	}
	setRapid(t, "rapid.checks", strconv.Itoa(backendtest.Rounds(200)))
	setRapid(t, "rapid.steps", "80")
	rapid.Check(t, func(t *rapid.T) {
		require.NoError(t, alone.FlushAll(context.Background()).Err())
		require.NoError(t, shared.FlushAll(context.Background()).Err())
		t.Repeat(map[string]func(*rapid.T){
			"call": func(t *rapid.T) {
				// That stock gives a lock of ours away and takes it again, before
				// anybody here has looked, can't be told from its race.
				_, err := ours.ListLocks(context.Background())
				require.NoError(t, err)
				sameAnswers(t, reference, oneOf(t, "turn", turns...))
			},
		})
		violations, err := ours.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, violations)
	})
}

// sameAnswers makes one call on two databases. It asks for nothing in which
// stock and ours differ by docs/compatibility.md.
func sameAnswers(t *rapid.T, one, other db.Database) {
	project := models.NewProject(oneOf(t, "repository", "org/app", "org/web"), oneOf(t, "path", ".", "a", "a/b"), oneOf(t, "project", "", "p"))
	workspace, number := oneOf(t, "workspace", "default", "prod"), oneOf(t, "number", 5, 6, 55)
	lock := models.ProjectLock{
		Project: project, Workspace: workspace, User: models.User{Username: "runner"}, Time: time.Unix(1_800_000_000, 0),
		Pull: models.PullRequest{Num: number, BaseRepo: models.Repo{
			FullName: project.RepoFullName, VCSHost: models.VCSHost{Hostname: "github.com", Type: models.Github},
		}},
	}
	call := oneOf(t, "call", "TryLock", "TryLock", "TryLock", "Unlock", "GetLock", "List", "UnlockIfOwnedByPull", "UnlockByPull")
	ask := func(database db.Database) (answers []any) {
		shownAll := func(locks []models.ProjectLock) (all []models.ProjectLock) {
			for _, l := range locks {
				l.Time = l.Time.UTC()
				all = append(all, l)
			}
			slices.SortFunc(all, func(a, b models.ProjectLock) int {
				return strings.Compare(models.GenerateLockKey(a.Project, a.Workspace), models.GenerateLockKey(b.Project, b.Workspace))
			})
			return all
		}
		pointer := func(l *models.ProjectLock, err error) []any {
			if l == nil {
				return []any{"none", err}
			}
			return []any{shownAll([]models.ProjectLock{*l}), err}
		}
		switch call {
		case "TryLock":
			acquired, holder, err := database.TryLock(lock)
			return []any{acquired, shownAll([]models.ProjectLock{holder}), err}
		case "Unlock":
			return pointer(database.Unlock(project, workspace))
		case "GetLock":
			return pointer(database.GetLock(project, workspace))
		case "List":
			all, err := database.List()
			return []any{shownAll(all), err}
		case "UnlockIfOwnedByPull":
			return pointer(database.UnlockIfOwnedByPull(project, workspace, number))
		default:
			all, err := database.UnlockByPull(project.RepoFullName, number)
			return []any{shownAll(all), err}
		}
	}
	require.Equal(t, ask(one), ask(other), "%s %s %d", call, models.GenerateLockKey(project, workspace), number)
}
