package bench

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
)

// BenchmarkCluster takes and releases locks on a cluster, each caller in a
// repository of its own. All servers are on this machine, so what tells is not
// how many pairs they do together, but what a pair costs the busiest of them.
func BenchmarkCluster(b *testing.B) {
	for _, primaries := range []int{1, 3, 6} {
		b.Run(fmt.Sprintf("primaries=%d", primaries), func(b *testing.B) {
			cluster := redistest.StartCluster(b, primaries, 0, redistest.Options{})
			servers := make([]*redis.Client, primaries)
			for i, node := range cluster.Nodes {
				servers[i] = node.Client()
			}
			take := throughAdapter(b, cluster.Client(), false)
			const callers = 128
			b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
				measure(b, servers, callers, pairOf(take, func(caller int) models.ProjectLock { return newLock(caller, caller) }))
			})
		})
	}
}
