package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// repositories is over how many repositories callers are spread.
const repositories = 50

// BenchmarkPair takes and releases locks that nobody else wants, each caller its
// own.
func BenchmarkPair(b *testing.B) {
	for _, name := range slices.Sorted(maps.Keys(candidates())) {
		b.Run("store="+name, func(b *testing.B) {
			take, server := open(b, name)
			for _, callers := range []int{1, 16, 128, 1024} {
				b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
					measure(b, server, callers, pairOf(take, func(caller int) models.ProjectLock {
						return newLock(caller%repositories, caller)
					}))
				})
			}
		})
	}
}

// open opens a candidate on a server of its own.
func open(b *testing.B, name string) (acquire, []*redis.Client) {
	b.Helper()
	return openOn(b, candidates()[name])
}

func openOn(b *testing.B, candidate func(b *testing.B, client *redis.Client) acquire) (acquire, []*redis.Client) {
	b.Helper()
	server := startServer(b)
	client := redis.NewClient(server.Options())
	b.Cleanup(func() {
		if err := client.Close(); err != nil {
			b.Error(err)
		}
	})
	return candidate(b, client), []*redis.Client{server.Client()}
}

// retryAfter is when a caller asks again that was refused. rueidislock and etcd
// wait by themselves; all others have no wait on Redis, or leave it to their
// users. It is between redislock's examples (100 ms) and a busy loop.
const retryAfter = 10 * time.Millisecond

// BenchmarkContended has 16 callers want one lock.
func BenchmarkContended(b *testing.B) {
	const callers = 16
	stores := candidates()
	stores["manager-queue"] = throughQueue
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		b.Run(fmt.Sprintf("store=%s/callers=%d", name, callers), func(b *testing.B) {
			take, server := openOn(b, stores[name])
			measure(b, server, callers, pairOf(retrying(take), func(caller int) models.ProjectLock {
				lock := newLock(0, caller)
				lock.Project = newLock(0, 0).Project
				return lock
			}))
		})
	}
}

// throughQueue waits for its turn, and is never refused.
func throughQueue(b *testing.B, client *redis.Client) acquire {
	b.Helper()
	config := queues()
	config.Backend, config.PreserveLegacyFormat = enhanced.BackendRedis, false
	backend := backends.NewRedisBackend(client, config, nil)
	b.Cleanup(func() {
		if err := backend.Close(); err != nil {
			b.Error(err)
		}
	})
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		held, err := manager.Acquire(ctx, newRequest(lock))
		if err != nil {
			return nil, err
		}
		return func() error {
			_, err := manager.Release(ctx, enhanced.ReleaseRequest{LockID: held.ID, Owner: held.Owner})
			return err
		}, nil
	}
}

func retrying(take acquire) acquire {
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		for {
			release, err := take(ctx, lock)
			if !errors.Is(err, errHeld) {
				return release, err
			}
			<-time.After(retryAfter)
		}
	}
}

// heldLocks are held while pairs are measured.
func heldLocks() int {
	if testing.Short() {
		return 1_000
	}
	return 100_000
}

// BenchmarkHeld takes and releases locks while many others are held, and says
// how much memory those take. Candidates whose own process keeps something for
// each lock are left out.
func BenchmarkHeld(b *testing.B) {
	for _, over := range []int{repositories, 1} {
		for _, name := range []string{"adapter", "adapter-mirror", "redislock", "redsync", "stock"} {
			b.Run(fmt.Sprintf("repositories=%d/store=%s", over, name), func(b *testing.B) {
				take, server := open(b, name)
				empty, _ := memory(b, server[0])
				before := heap()
				hold(b, take, over)
				full, log := memory(b, server[0])
				own := max(0, heap()-before)
				for _, callers := range []int{16, 128} {
					b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
						measure(b, server, callers, pairOf(take, func(caller int) models.ProjectLock {
							return newLock(caller%over, caller)
						}))
						held := float64(heldLocks())
						b.ReportMetric(float64(full-empty-log)/held, "memory-B/lock")
						b.ReportMetric(float64(log)/held, "log-B/lock")
						b.ReportMetric(float64(own)/held, "client-B/lock")
					})
				}
			})
		}
	}
}

// hold takes locks over repositories that are never released.
func hold(b *testing.B, take acquire, over int) {
	b.Helper()
	const first = 1_000_000 // callers' own are below
	var next atomic.Int64
	var done sync.WaitGroup
	for range 128 {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < heldLocks(); i = int(next.Add(1)) - 1 {
				if _, err := take(context.Background(), newLock(i%over, first+i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	done.Wait()
}

// memory is how much a server uses, and how much of it for logs: only those are
// streams.
func memory(b *testing.B, server *redis.Client) (all, log int64) {
	b.Helper()
	ctx := context.Background()
	info, err := server.InfoMap(ctx, "memory").Result()
	if err != nil {
		b.Fatal(err)
	}
	streams := server.ScanType(ctx, 0, "*", 10_000, "stream").Iterator()
	for streams.Next(ctx) {
		size, err := server.MemoryUsage(ctx, streams.Val(), 0).Result()
		if err != nil {
			b.Fatal(err)
		}
		log += size
	}
	if err := streams.Err(); err != nil {
		b.Fatal(err)
	}
	return int64(number(b, info["Memory"]["used_memory"])), log
}

// heap is how much memory this process holds.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
