package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
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

// renewed is the length of the leases that are renewed, each about three times in it.
const renewed = 30 * time.Second

// BenchmarkRenew is what it costs to renew 1,000 leases of 30 seconds about every 10
// seconds, with our handles and, as a user would do it, with redislock. One operation is a
// second, in which about 100 are renewed.
func BenchmarkRenew(b *testing.B) {
	leases := 1_000
	if testing.Short() {
		leases = 10
	}
	for _, c := range []struct {
		store  string
		leases int
		renew  func(b *testing.B, server *redis.Client, leases int)
	}{
		{"manager", 0, renewHandles}, {"manager", leases, renewHandles}, {"redislock", leases, renewRedislock},
	} {
		b.Run(fmt.Sprintf("store=%s/leases=%d", c.store, c.leases), func(b *testing.B) {
			server := startServer(b).Client()
			c.renew(b, server, c.leases)
			b.Run("seconds", func(b *testing.B) { measureSeconds(b, server, func() {}) })
		})
	}
}

// spread calls take for each lease, in the time between two renewals of one.
func spread(leases int, take func(i int)) {
	tick := time.NewTicker(renewed / 3 / 1_000)
	defer tick.Stop()
	for i := range leases {
		<-tick.C
		take(i)
	}
}

// renewHandles has handles renew leases until the benchmark ends.
func renewHandles(b *testing.B, server *redis.Client, leases int) {
	b.Helper()
	manager, _ := newManager(b, server, false)
	spread(leases, func(i int) {
		request := newRequest(newLock(i%repositories, i))
		request.Timeout = renewed
		handle, err := enhanced.AcquireHandle(context.Background(), manager, request, enhanced.HandleOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := handle.Check(); err != nil {
				b.Error(err)
			}
			if err := handle.Release(context.Background()); err != nil {
				b.Error(err)
			}
		})
	})
}

// renewRedislock has a goroutine for each lease renew it until the benchmark ends.
func renewRedislock(b *testing.B, server *redis.Client, leases int) {
	b.Helper()
	locker := redislock.New(server)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	b.Cleanup(func() {
		cancel()
		done.Wait()
	})
	spread(leases, func(i int) {
		lock := newLock(i%repositories, i)
		held, err := locker.Obtain(ctx, models.GenerateLockKey(lock.Project, lock.Workspace), renewed, nil)
		if err != nil {
			b.Fatal(err)
		}
		done.Go(func() {
			tick := time.NewTicker(renewed / 3)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if err := held.Refresh(ctx, renewed, nil); err != nil && ctx.Err() == nil {
					b.Error(err)
				}
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
