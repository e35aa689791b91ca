package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// Processes lock sets that overlap, in any order, and exchange a part of them. Some wait
// for their sets, and get each of them; the others take what is free. A set is locked
// whole, and nobody ever has what another one keeps.
func TestProcessesLockSets(t *testing.T) {
	t.Parallel()
	const processes = 8
	server := redistest.Start(t, redistest.Options{})
	rounds := backendtest.Rounds(10_000) / processes
	executable, err := os.Executable()
	require.NoError(t, err)
	var won [processes]int
	backendtest.Together(processes, func(i int) {
		child := exec.CommandContext(t.Context(), executable, server.Addr, strconv.Itoa(i+1), strconv.Itoa(rounds))
		child.Env = append(os.Environ(), childMode+"=sets")
		child.Stderr = os.Stderr
		output, err := child.Output()
		if err == nil {
			won[i], err = strconv.Atoi(strings.TrimSpace(string(output)))
		}
		if err != nil {
			t.Errorf("process %d: %v", i+1, err)
		}
	})
	t.Logf("sets won by each process, of %d: %v", rounds, won)
	for i, n := range won {
		require.Positive(t, n, "process %d never won; the run is void", i+1)
	}
	b := backends.NewRedisBackend(server.Client(), nil, nil)
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	require.Empty(t, locks)
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	require.NoError(t, b.Close())
}

// runSets is a process of the test: it prints how many sets it got.
func runSets(addr, number, rounds string) int {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.SetReserveAfter = true, 20*time.Millisecond
	b := backends.NewRedisBackend(client, config, nil)
	me, err := strconv.Atoi(number)
	check(err)
	n, err := strconv.Atoi(rounds)
	check(err)
	pull := &models.PullRequest{Num: me, BaseRepo: models.Repo{FullName: "org/app", VCSHost: models.VCSHost{Hostname: "github.com"}}}
	requests := func(numbers []int) (set []*enhanced.EnhancedLockRequest) {
		for _, n := range numbers {
			set = append(set, &enhanced.EnhancedLockRequest{
				Project: models.NewProject("org/app", fmt.Sprint("p", n), ""), Workspace: "default", Pull: pull, Timeout: enhanced.NoTimeout,
			})
		}
		return set
	}
	// A key beside the locks says who believes that it has which.
	enter := func(numbers []int) {
		for _, n := range numbers {
			alone, err := client.SetNX(ctx, fmt.Sprint("test:inside:", n), me, 0).Result()
			check(err)
			if !alone {
				panic(fmt.Sprint("two have p", n))
			}
		}
	}
	leave := func(numbers []int) {
		for _, n := range numbers {
			check(client.Del(ctx, fmt.Sprint("test:inside:", n)).Err())
		}
	}
	owner := enhanced.PullOwner("github.com", "org/app", me)
	random := rand.New(rand.NewPCG(uint64(me), 3)) //nolint:gosec // a test
	won := 0
	// Who does not wait has his turn at the latest when those who do have gone.
	for round := 0; round < n || won == 0 && round < 1000*n; round++ {
		order := random.Perm(24)
		wanted, other := order[:2+random.IntN(4)], order[6:8]
		waits := me%2 == 0
		_, err := b.AcquireAll(ctx, requests(wanted), waits)
		if !waits && errors.Is(err, enhanced.ErrLockExists) {
			continue
		}
		check(err)
		won++
		enter(wanted)
		// The first one stays, the others go, and two come.
		leave(wanted[1:])
		holds := append([]int{wanted[0]}, other...)
		_, err = b.ReplaceAll(ctx, "org/app", owner, requests(holds))
		if errors.Is(err, enhanced.ErrLockExists) {
			holds = wanted[:1] // all are held still, which nobody looks at
		} else {
			check(err)
			enter(other)
		}
		leave(holds)
		_, err = b.ReplaceAll(ctx, "org/app", owner, nil)
		check(err)
	}
	fmt.Println(won)
	check(b.Close())
	check(client.Close())
	return 0
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
