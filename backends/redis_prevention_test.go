package backends_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// preventingOn refuses who would close a cycle of waits.
func preventingOn() *enhanced.EnhancedConfig {
	config := queueOn()
	config.DeadlockPrevention = true
	return config
}

// place is a request of a pull request that leaves a detached waiter.
func place(number int, path string, priority enhanced.Priority) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Resource: enhanced.ProjectResource(models.NewProject("org/app", path, ""), "default"), Priority: priority, Detached: true,
		Timeout: enhanced.NoTimeout,
		Pull:    &models.PullRequest{Num: number, BaseRepo: models.Repo{FullName: "org/app", VCSHost: models.VCSHost{Hostname: "github.com"}}},
	}
}

func try(t *testing.T, b enhanced.Backend, r *enhanced.EnhancedLockRequest) bool {
	t.Helper()
	_, acquired, err := b.TryAcquireLock(t.Context(), r)
	require.NoError(t, err)
	return acquired
}

// Of two processes that close a cycle at the same moment one is refused.
func TestRedisPreventionOfTwoProcesses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	processes := []enhanced.Backend{openRedis(t, server.Client(), preventingOn()), openRedis(t, server.Client(), preventingOn())}
	for round := range backendtest.Rounds(400) {
		paths := []string{fmt.Sprint("vpc", round), fmt.Sprint("db", round)}
		owners := []string{fmt.Sprint("ann", round), fmt.Sprint("bob", round)}
		locks := make([]*enhanced.EnhancedLock, 2)
		for i, b := range processes {
			var err error
			locks[i], err = b.AcquireLock(t.Context(), by("org/app", paths[i], owners[i]))
			require.NoError(t, err)
		}
		answers := make(chan error, 2)
		backendtest.Together(2, func(i int) {
			_, err := processes[i].AcquireLock(t.Context(), by("org/app", paths[1-i], owners[i]))
			if errors.Is(err, enhanced.ErrDeadlock) {
				// The other one waits, for as long as this one holds.
				err = errors.Join(err, processes[1-i].ReleaseLock(t.Context(), locks[i].ID))
			}
			answers <- err
		})
		first, second := <-answers, <-answers
		if first == nil {
			first, second = second, first
		}
		require.ErrorIs(t, first, enhanced.ErrDeadlock)
		require.NoError(t, second, "it was granted what the other one gave up")
	}
}

// However long the queues are, the script ends at the limit, and in time.
func TestRedisPreventionIsBounded(t *testing.T) {
	t.Parallel()
	// The time that it takes is looked at where the machine has nothing else to do.
	const few, many, most, longest = 490, 600, 900, 10 * time.Millisecond
	everything := backendtest.Rounds(20) == 20
	queue := func(t *testing.T, b enhanced.Backend, waiters int) *enhanced.EnhancedLockRequest {
		t.Helper()
		require.True(t, try(t, b, place(1, "p", enhanced.PriorityNormal)))
		for i := range waiters {
			require.False(t, try(t, b, place(2+i, "p", enhanced.PriorityNormal)))
		}
		return place(2+waiters, "p", enhanced.PriorityNormal)
	}
	chain := func(t *testing.T, b enhanced.Backend, waiters int) *enhanced.EnhancedLockRequest {
		t.Helper()
		for i := range waiters + 1 {
			require.True(t, try(t, b, place(i+1, fmt.Sprint("p", i), enhanced.PriorityNormal)))
		}
		for i := range waiters {
			require.False(t, try(t, b, place(i+1, fmt.Sprint("p", i+1), enhanced.PriorityNormal)))
		}
		return place(waiters+2, "p0", enhanced.PriorityNormal)
	}
	ofOne := func(t *testing.T, b enhanced.Backend, waiters int) *enhanced.EnhancedLockRequest {
		t.Helper()
		require.True(t, try(t, b, place(1, "p", enhanced.PriorityNormal)))
		for i := range waiters {
			require.True(t, try(t, b, place(2+i, fmt.Sprint("p", i), enhanced.PriorityNormal)))
			require.False(t, try(t, b, place(1, fmt.Sprint("p", i), enhanced.PriorityNormal)))
		}
		return place(waiters+2, "p", enhanced.PriorityNormal)
	}
	for name, c := range map[string]struct {
		build     func(t *testing.T, b enhanced.Backend, waiters int) *enhanced.EnhancedLockRequest
		waiters   int
		unchecked bool
	}{
		"a queue": {queue, few, false}, "a chain": {chain, few, false}, "waits of one": {ofOne, few, false},
		"a longer queue": {queue, many, true}, "a longer chain": {chain, many, true}, "more waits of one": {ofOne, many, true},
	} {
		if !everything && !strings.HasSuffix(name, "chain") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			client := redistest.Start(t, redistest.Options{}).Client()
			config := queueOn()
			config.MaxQueueSize = 2 * many
			request := c.build(t, openRedis(t, client, config), c.waiters)
			config = preventingOn()
			config.MaxQueueSize = 2 * many
			b := openRedis(t, client, config)
			best := time.Hour
			for range 3 {
				before, used := busy(t, client), commands(t, client)
				require.False(t, try(t, b, request))
				best = min(best, busy(t, client)-before)
				require.Less(t, commands(t, client)-used, most)
				require.NoError(t, b.CancelRequest(t.Context(), request.Resource, request.Owner().String(), "user:admin"))
			}
			stats, err := b.GetStats(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.unchecked, stats.UncheckedWaits > 0)
			t.Logf("the server took %v", best)
			if everything {
				require.Less(t, best, longest)
			}
		})
	}
}

// busy is how long the thread of a server that runs scripts has computed.
func busy(t *testing.T, client *redis.Client) (total time.Duration) {
	t.Helper()
	info, err := client.Info(t.Context(), "cpu").Result()
	require.NoError(t, err)
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user_main_thread" || name == "used_cpu_sys_main_thread" {
			seconds, err := strconv.ParseFloat(value, 64)
			require.NoError(t, err)
			total += time.Duration(seconds * float64(time.Second))
		}
	}
	require.NotZero(t, total)
	return total
}

// Both stores answer the same, whatever happens: who waits and in which order, what
// was refused and moved, and why.
func TestDeadlocksAreTheSameOnBothStores(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	ends := 0
	for round := 0; round < backendtest.Rounds(40) || ends == 0; round++ {
		require.Less(t, round, 200, "no round has a deadlock to end")
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		config := preventingOn()
		config.DeadlockPrevention = random.IntN(3) == 0
		config.DeadlockReleaseHeld = true
		config.DeadlockCheckLimit = []int{1, 3, 8, 1000}[random.IntN(4)]
		client := server.Client()
		require.NoError(t, client.FlushAll(t.Context()).Err())
		stores := []enhanced.Backend{openRedis(t, client, config), openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)}
		raised := false
		for step := range 60 {
			request := place(1+random.IntN(6), fmt.Sprint("p", random.IntN(5)), enhanced.Priority(random.IntN(4)))
			request.ID = fmt.Sprint("step", step)
			choice := random.IntN(10)
			var cycles []deadlock.Cycle
			if choice == 3 { // the request IDs are the same
				graph, err := stores[random.IntN(2)].(enhanced.DeadlockStore).WaitForGraph(t.Context())
				require.NoError(t, err)
				cycles = graph.Cycles()
			}
			var seen [2]string
			for i, b := range stores {
				seen[i] = change(t.Context(), b, choice, request)
				if len(cycles) > 0 {
					seen[i] = end(t, b, cycles[0])
					ends++
				}
				seen[i] += "\n" + waitsOf(t, b)
			}
			require.Equal(t, seen[1], seen[0], "seed %d, step %d", seed, step)
			if !raised {
				raised = raiseWaiters(t, client, round%2*5000)
			}
		}
		require.True(t, raiseWaiters(t, client, -round%2*5000))
		for _, b := range stores {
			violations, err := b.(enhanced.Verifier).Verify(t.Context())
			require.NoError(t, err)
			require.Empty(t, violations, "seed %d", seed)
		}
	}
}

// end ends a deadlock, and says what the store has done.
func end(t *testing.T, b enhanced.Backend, cycle deadlock.Cycle) string {
	t.Helper()
	report, err := b.(enhanced.DeadlockStore).EndDeadlock(t.Context(), enhanced.DeadlockEnding{
		Cycle: cycle, Victim: &cycle[0].Waiter, Policy: enhanced.PolicyYoungest, ReleaseHeld: true,
	})
	require.NoError(t, err)
	if report == nil {
		return "no deadlock"
	}
	return fmt.Sprintf("%s %v", report.Outcome, report)
}

// raiseWaiters has the scripts believe that more requests wait: then they read those
// that they meet, instead of all. It reports whether there is a repository yet.
func raiseWaiters(t *testing.T, client *redis.Client, more int) bool {
	t.Helper()
	state := repositoryKey("org/app", "state")
	text := countOf(t.Context(), client, state, "waiters")
	if text == "" {
		return false
	}
	waiters, err := strconv.Atoi(text)
	require.NoError(t, err)
	require.NoError(t, setCount(t.Context(), client, state, "waiters", waiters+more))
	return true
}

// change changes something, and says what the store has answered.
func change(ctx context.Context, b enhanced.Backend, choice int, request *enhanced.EnhancedLockRequest) string {
	lock, err := b.LookupLock(ctx, request.Resource)
	switch {
	case choice == 0 && err == nil:
		return fmt.Sprint("release ", b.ReleaseLock(ctx, lock.ID) == nil)
	case choice == 1 && err == nil:
		return fmt.Sprint("transfer ", b.TransferLock(ctx, lock.ID, request.Owner().String()) == nil)
	case choice == 2:
		return fmt.Sprint("cancel ", b.CancelRequest(ctx, request.Resource, request.Owner().String(), "user:admin") == nil)
	}
	if choice == 3 {
		return ""
	}
	_, acquired, err := b.TryAcquireLock(ctx, request)
	return fmt.Sprint("try ", acquired, " ", err == nil)
}

// waitsOf describes the locks, the queues and the deadlocks of a store.
func waitsOf(t *testing.T, b enhanced.Backend) (all string) {
	t.Helper()
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	for _, lock := range locks {
		all += fmt.Sprintf("%s: %s\n", lock.Resource, lock.Owner)
	}
	status, err := b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	for _, r := range status.PendingRequests {
		all += fmt.Sprintf("%s wanted by %s with %d\n", r.Resource, r.Owner(), r.Priority)
	}
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/app", time.Time{})
	require.NoError(t, err)
	for _, r := range records {
		all += fmt.Sprintf("%s by %s for %s: %s %s", r.Deadlock.Outcome, r.Actor, r.Waiter, r.Resource, r.Deadlock)
		for _, moved := range r.Deadlock.Moved {
			all += fmt.Sprintf(", %s on %s", moved.Owner, moved.Resource)
		}
		all += "\n"
	}
	stats, err := b.GetStats(t.Context())
	require.NoError(t, err)
	return all + fmt.Sprint(stats.UncheckedWaits)
}
