package bench

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// BenchmarkRest is what held locks cost a server and a process with a running
// manager while nobody does anything. One operation is a second, and background
// work comes every 30 seconds: -benchtime 30x has all of it.
func BenchmarkRest(b *testing.B) {
	for _, held := range []int{0, heldLocks()} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			manager, server := openManager(b)
			if held > 0 {
				hold(b, lockingThrough(manager), repositories)
			}
			if err := manager.Start(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				if err := manager.Stop(context.Background()); err != nil {
					b.Error(err)
				}
			})
			b.Run("seconds", func(b *testing.B) { measureSeconds(b, server, func() {}) })
		})
	}
}

// BenchmarkRenew is what 1,000 leases of 30 seconds cost that are renewed every
// 10 seconds, one after the other. One operation is a second, in which 100 are.
func BenchmarkRenew(b *testing.B) {
	const leases, lease, perSecond = 1_000, 30 * time.Second, 100
	manager, server := openManager(b)
	ids := make([]string, leases)
	for i := range ids {
		request := newRequest(newLock(i%repositories, i))
		request.Timeout = lease
		held, err := manager.Acquire(context.Background(), request)
		if err != nil {
			b.Fatal(err)
		}
		ids[i] = held.ID
	}
	b.Run(fmt.Sprintf("leases=%d", leases), func(b *testing.B) {
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		next := 0
		measureSeconds(b, server, func() {
			for range perSecond {
				<-tick.C
				if err := manager.GetBackend().RefreshLock(context.Background(), ids[next%leases], lease); err != nil {
					b.Fatal(err)
				}
				next++
			}
		})
	})
}

func openManager(b *testing.B) (*enhanced.EnhancedLockManager, *redis.Client) {
	b.Helper()
	server := startServer(b)
	manager, _ := newManager(b, server.Client(), false)
	return manager, server.Client()
}

// measureSeconds runs work, which takes at most a second, once a second.
func measureSeconds(b *testing.B, server *redis.Client, work func()) {
	b.Helper()
	servers := []*redis.Client{server}
	runtime.GC()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	serverBefore, before := usageOf(b, servers)[0], cpu(b)
	b.ResetTimer()
	for range b.N {
		work()
		<-tick.C
	}
	b.StopTimer()
	client, used := cpu(b)-before, usageOf(b, servers)[0].since(serverBefore)
	seconds := b.Elapsed().Seconds()
	b.ReportMetric(100*client.Seconds()/seconds, "client-cpu-%")
	b.ReportMetric(100*used.cpu.Seconds()/seconds, "server-cpu-%")
	b.ReportMetric(float64(used.in+used.out)/seconds, "net-B/s")
}
