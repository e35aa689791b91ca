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

// BenchmarkRenew is what 1,000 handles with leases of 30 seconds cost, which they
// renew about every 10 seconds. One operation is a second, in which about 100 are
// renewed.
func BenchmarkRenew(b *testing.B) {
	const lease = 30 * time.Second
	leases := 1_000
	if testing.Short() {
		leases = 10
	}
	manager, server := openManager(b)
	handles := make([]*enhanced.Handle, leases)
	spread := time.NewTicker(lease / 3 / 1_000) // as they come in the time between two renewals of one
	defer spread.Stop()
	for i := range handles {
		<-spread.C
		request := newRequest(newLock(i%repositories, i))
		request.Timeout = lease
		handle, err := enhanced.AcquireHandle(context.Background(), manager, request, enhanced.HandleOptions{})
		if err != nil {
			b.Fatal(err)
		}
		handles[i] = handle
	}
	b.Run(fmt.Sprintf("leases=%d", leases), func(b *testing.B) { measureSeconds(b, server, func() {}) })
	for _, handle := range handles {
		if err := handle.Check(); err != nil {
			b.Error(err)
		}
		if err := handle.Release(context.Background()); err != nil {
			b.Error(err)
		}
	}
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
