package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// line is a lock that callers wait for in turn.
type line struct {
	// take waits for the turn of a caller.
	take func(ctx context.Context, caller int) (release func() error, err error)
	// length is how many wait.
	length func() (int, error)
}

// lines are the lock systems whose callers wait in order, each as it keeps what it
// acknowledges and, but for bbolt, as it does not.
func lines() []struct {
	name string
	open func(b *testing.B) line
} {
	return []struct {
		name string
		open func(b *testing.B) line
	}{
		{"bbolt", bboltLine},
		{"redis-aof", func(b *testing.B) line { return redisLine(b, "--appendonly", "yes", "--appendfsync", "always") }},
		{"etcd", func(b *testing.B) line { return etcdLine(b, false) }},
		{"redis", func(b *testing.B) line { return redisLine(b) }},
		{"etcd-nofsync", func(b *testing.B) line { return etcdLine(b, true) }},
	}
}

// BenchmarkHandOver has a lock go from one waiter to the next while others wait,
// and whoever has had it waits again.
func BenchmarkHandOver(b *testing.B) {
	most := 10_000
	if testing.Short() {
		most = 100
	}
	for _, waiters := range []int{1, 100, most} {
		for _, l := range lines() {
			if waiters > 1000 && strings.HasPrefix(l.name, "etcd") {
				continue // its client takes minutes to make as many sessions
			}
			b.Run(fmt.Sprintf("store=%s/waiters=%d", l.name, waiters), func(b *testing.B) {
				measureHandOver(b, l.open(b), waiters)
			})
		}
	}
}

func measureHandOver(b *testing.B, l line, waiters int) {
	b.Helper()
	type grant struct {
		at      time.Time
		release func() error
		over    chan struct{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	first, err := l.take(ctx, waiters)
	if err != nil {
		b.Fatal(err)
	}
	grants := make(chan grant)
	var callers sync.WaitGroup
	for caller := range waiters {
		callers.Go(func() {
			for {
				release, err := l.take(ctx, caller)
				if err != nil {
					if ctx.Err() == nil {
						b.Error(err)
					}
					return
				}
				g := grant{time.Now(), release, make(chan struct{})}
				select {
				case grants <- g:
					<-g.over
				case <-ctx.Done():
					if err := release(); err != nil {
						b.Error(err)
					}
					return
				}
			}
		})
	}
	awaitLength(b, l, waiters)
	var latencies []time.Duration
	held := grant{release: first, over: make(chan struct{})}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		start := time.Now()
		if err := held.release(); err != nil {
			b.Fatal(err)
		}
		close(held.over)
		held = <-grants
		latencies = append(latencies, held.at.Sub(start))
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handovers/s")
	reportLatencies(b, latencies)
	cancel()
	if err := held.release(); err != nil {
		b.Error(err)
	}
	close(held.over)
	callers.Wait()
}

func awaitLength(b *testing.B, l line, waiters int) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		switch n, err := l.length(); {
		case err != nil:
			b.Fatal(err)
		case n == waiters:
			return
		case time.Now().After(deadline):
			b.Fatalf("%d wait, not %d", n, waiters)
		}
	}
}

// queues is a configuration with room for all who wait.
func queues() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.MaxQueueSize = true, 20_000
	return config
}

func bboltLine(b *testing.B) line {
	b.Helper()
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "atlantis.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	backend, err := backends.NewBoltBackend(db, queues(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(backend.Close(), db.Close()); err != nil {
			b.Error(err)
		}
	})
	return lineOf(backend)
}

func redisLine(b *testing.B, args ...string) line {
	b.Helper()
	client := redis.NewClient(redistest.Start(b, redistest.Options{Args: args}).Options())
	config := queues()
	config.Backend, config.PreserveLegacyFormat = enhanced.BackendRedis, false
	backend := backends.NewRedisBackend(client, config, nil)
	b.Cleanup(func() {
		if err := errors.Join(backend.Close(), client.Close()); err != nil {
			b.Error(err)
		}
	})
	return lineOf(backend)
}

func lineOf(backend enhanced.Backend) line {
	return line{
		take: func(ctx context.Context, caller int) (func() error, error) {
			wanted := newLock(0, caller)
			wanted.Project = newLock(0, 0).Project
			lock, err := backend.AcquireLock(ctx, &enhanced.EnhancedLockRequest{
				Project: wanted.Project, Workspace: wanted.Workspace, User: wanted.User, Pull: &wanted.Pull, Timeout: enhanced.NoTimeout,
			})
			if err != nil {
				return nil, err
			}
			return func() error { return backend.ReleaseLock(context.Background(), lock.ID) }, nil
		},
		length: func() (int, error) {
			status, err := backend.GetQueueStatus(context.Background())
			if err != nil {
				return 0, err
			}
			return status.Size, nil
		},
	}
}

// etcdLine gives each caller a session, since one session is one owner.
func etcdLine(b *testing.B, unsafe bool) line {
	b.Helper()
	const prefix = "/lock"
	client := startEtcd(b, unsafe)
	var mu sync.Mutex // protects sessions
	sessions := make(map[int]*concurrency.Session)
	session := func(caller int) (*concurrency.Session, error) {
		mu.Lock()
		defer mu.Unlock()
		if s := sessions[caller]; s != nil {
			return s, nil
		}
		// One after the other: the server refuses thousands at once.
		s, err := concurrency.NewSession(client, concurrency.WithTTL(300))
		sessions[caller] = s
		return s, err
	}
	return line{
		take: func(ctx context.Context, caller int) (func() error, error) {
			s, err := session(caller)
			if err != nil {
				return nil, err
			}
			mutex := concurrency.NewMutex(s, prefix)
			return func() error { return mutex.Unlock(context.Background()) }, mutex.Lock(ctx)
		},
		length: func() (int, error) {
			reply, err := client.Get(context.Background(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil {
				return 0, err
			}
			return int(reply.Count) - 1, nil // the holder's is one
		},
	}
}
