package tests

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
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

const processes = 4

// Processes want the same locks in the same order; each lock has one winner.
func TestProcessesContend(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	const rounds = 10_000
	executable, err := os.Executable()
	require.NoError(t, err)
	var mu sync.Mutex
	winners := make(map[string][]int)
	backendtest.Together(processes, func(i int) {
		child := exec.CommandContext(t.Context(), executable, server.Addr, strconv.Itoa(i), strconv.Itoa(rounds))
		child.Env = append(os.Environ(), childMode+"=contend")
		child.Stderr = os.Stderr
		output, err := child.Output()
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Errorf("process %d: %v", i, err)
		}
		for won := range strings.Lines(string(output)) {
			won = strings.TrimSpace(won)
			winners[won] = append(winners[won], i)
		}
	})
	count := make([]int, processes)
	for resource, who := range winners {
		require.Len(t, who, 1, "winners of %s", resource)
		count[who[0]]++
	}
	require.Len(t, winners, rounds, "each lock has a winner")
	t.Logf("won by each process: %v", count)
	for i, n := range count {
		require.Positive(t, n, "process %d never won; the run is void", i)
	}
	b := backends.NewRedisBackend(server.Client(), nil, nil)
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	require.NoError(t, b.Close())
}

// runContend is a process of the test: it prints the locks that it got. They
// wait for each other every hundred rounds, in Redis, and take turns in opening the
// gate: who opens it is the first to go on, and could be the same one each time.
func runContend(addr, number, rounds string) int {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	b := backends.NewRedisBackend(client, nil, nil)
	n, err := strconv.Atoi(rounds)
	if err != nil {
		panic(err)
	}
	out := bufio.NewWriter(os.Stdout)
	for round := range n {
		if round%100 == 0 {
			gather(ctx, client, round, number == strconv.Itoa(round/100%processes))
		}
		path := "p" + strconv.Itoa(round)
		_, acquired, err := b.TryAcquireLock(ctx, &enhanced.EnhancedLockRequest{
			Resource: enhanced.ProjectResource(models.NewProject("org/app"+strconv.Itoa(round%7), path, ""), "default"),
			User:     models.User{Username: "process" + number},
		})
		if err != nil {
			panic(err)
		}
		if acquired {
			if _, err := fmt.Fprintln(out, path); err != nil {
				panic(err)
			}
		}
	}
	for _, err := range []error{out.Flush(), b.Close(), client.Close()} {
		if err != nil {
			panic(err)
		}
	}
	return 0
}

// gather returns once all processes have called it for the round, one of them to
// open the gate.
func gather(ctx context.Context, client *redis.Client, round int, opens bool) {
	arrived, gate := "test:arrived:"+strconv.Itoa(round), "test:gate:"+strconv.Itoa(round)
	push := func(list string, values ...any) {
		if err := client.RPush(ctx, list, values...).Err(); err != nil {
			panic(err)
		}
	}
	// One that has failed never comes; the others end then, too.
	pop := func(list string) {
		if err := client.BLPop(ctx, time.Minute, list).Err(); err != nil {
			panic(err)
		}
	}
	if !opens {
		push(arrived, "here")
		pop(gate)
		return
	}
	for range processes - 1 {
		pop(arrived)
	}
	push(gate, slices.Repeat([]any{"go"}, processes-1)...)
}
