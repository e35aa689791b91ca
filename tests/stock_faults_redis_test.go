package tests

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	libredis "github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// The faults of stock Atlantis' locking that need a Redis, each on stock and on
// ours.

func oursRedis(t *testing.T, client libredis.UniversalClient) db.Database {
	t.Helper()
	config := enhanced.DefaultConfig()
	config.Enabled = true
	_, config.RedisClusterMode = client.(*libredis.ClusterClient)
	config.PreserveLegacyFormat = !config.RedisClusterMode
	backend := backends.NewRedisBackend(client, config, nil)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	return enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, nil, nil)
}

// bothReplicas runs a test with two replicas of stock, and with two of ours, on
// one Redis.
func bothReplicas(t *testing.T, test func(t *testing.T, replicas [2]db.Database, ours bool)) {
	t.Helper()
	for _, ours := range []bool{false, true} {
		t.Run(map[bool]string{false: "stock", true: "ours"}[ours], func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			var replicas [2]db.Database
			for i := range replicas {
				if ours {
					replicas[i] = oursRedis(t, server.Client())
					continue
				}
				stock, err := redis.NewWithClient(server.Client(), "", "")
				require.NoError(t, err)
				replicas[i] = stock
			}
			test(t, replicas, ours)
		})
	}
}

// requireFault counts rounds in which a fault shows. Stock's races need luck, so
// it gets more rounds where none has shown.
func requireFault(t *testing.T, what string, full int, ours bool, round func(i int) bool) {
	t.Helper()
	shown, rounds := 0, 0
	for least := backendtest.Rounds(full); rounds < least || !ours && shown == 0 && rounds < 20*least; rounds++ {
		if round(rounds) {
			shown++
		}
	}
	t.Logf("%s: %d of %d rounds", what, shown, rounds)
	if ours {
		require.Zero(t, shown, what)
	} else {
		require.Positive(t, shown, "%s: never met, the run is void", what)
	}
}

func TestFaultTwoReplicasBothWin(t *testing.T) {
	t.Parallel()
	bothReplicas(t, func(t *testing.T, replicas [2]db.Database, ours bool) {
		requireFault(t, "a lock granted to both", 3000, ours, func(i int) bool {
			winners := race(t, []tryLocker{replicas[0], replicas[1]}, fmt.Sprintf("p%d", i))
			require.NotEmpty(t, winners)
			return len(winners) > 1
		})
		requireFault(t, "the command apply locked by both", 1000, ours, func(int) bool {
			var won atomic.Int64
			backendtest.Together(len(replicas), func(i int) {
				if lock, err := replicas[i].LockCommand(command.Apply, time.Now()); err == nil && lock != nil {
					won.Add(1)
				}
			})
			require.NoError(t, replicas[0].UnlockCommand(command.Apply))
			require.Positive(t, won.Load())
			return won.Load() > 1
		})
	})
}

// Two projects of one pull request are planned at the same time.
func TestFaultTwoStatusWritersLoseAnUpdate(t *testing.T) {
	t.Parallel()
	bothReplicas(t, func(t *testing.T, replicas [2]db.Database, ours bool) {
		requireFault(t, "an update lost", 500, ours, func(round int) bool {
			pull := lockOf(project, round+1, ".").Pull
			pull.HeadCommit = "9d7f8b1f"
			_, err := replicas[0].UpdatePullWithResults(pull, nil)
			require.NoError(t, err)
			backendtest.Together(len(replicas), func(i int) {
				result := command.ProjectResult{Command: command.Plan, Workspace: "default", RepoRelDir: fmt.Sprintf("p%d", i)}
				result.PlanSuccess = &models.PlanSuccess{TerraformOutput: "Plan: 1 to add"}
				if _, err := replicas[i].UpdatePullWithResults(pull, []command.ProjectResult{result}); err != nil {
					t.Error(err)
				}
			})
			status, err := replicas[0].GetPullStatus(pull)
			require.NoError(t, err)
			return len(status.Projects) < len(replicas)
		})
	})
}

// Stock's SCAN goes to one master, whichever it is.
func TestFaultClusterListsOneMaster(t *testing.T) {
	t.Parallel()
	const paths = 60 // one master has them all with a probability of 3^-59
	cluster := redistest.StartCluster(t, 3, 0, redistest.Options{})
	for _, ours := range []bool{false, true} {
		var database db.Database
		if ours {
			database = oursRedis(t, cluster.Client())
		} else {
			stock, err := redis.NewWithConfig(redis.Config{ClusterAddresses: cluster.Addrs()})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, stock.Close()) })
			database = stock
		}
		// Each has a repository of its own, since a cluster's data is not mirrored.
		repository := map[bool]string{false: "org/stock", true: "org/ours"}[ours]
		for i := range paths {
			take(t, database, lockOf(repository, 5, fmt.Sprintf("p%d", i)))
		}
		listed, err := database.List()
		require.NoError(t, err)
		released, err := database.UnlockByPull(repository, 5)
		require.NoError(t, err)
		left := 0
		for i := range paths {
			lock, err := database.GetLock(lockOf(repository, 5, fmt.Sprintf("p%d", i)).Project, "default")
			require.NoError(t, err)
			if lock != nil {
				left++
			}
		}
		t.Logf("ours %t: of %d locks %d are listed, %d released with the pull request, %d left", ours, paths, len(listed), len(released), left)
		if ours {
			require.Len(t, listed, paths)
			require.Len(t, released, paths)
			require.Zero(t, left)
			continue
		}
		require.Less(t, len(listed), paths)
		require.Less(t, len(released), paths)
		require.Positive(t, left)
	}
}
