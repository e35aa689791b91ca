package tests

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Benchmarks of what the core does most, on each backend, by one caller. How
// stores compare, with many callers, is in backends/ and bench/.

// onEach runs a benchmark on each backend, with a manager of its own.
func onEach(b *testing.B, run func(b *testing.B, manager *enhanced.EnhancedLockManager)) {
	b.Helper()
	b.Run("backend=bolt", func(b *testing.B) { run(b, boltManager(b)) })
	b.Run("backend=redis", func(b *testing.B) { run(b, redisManager(b, nil)) })
}

func redisManager(b *testing.B, config *enhanced.EnhancedConfig) *enhanced.EnhancedLockManager {
	b.Helper()
	backend := backends.NewRedisBackend(redistest.Start(b, redistest.Options{}).Client(), config, nil)
	b.Cleanup(func() { require.NoError(b, backend.Close()) })
	return enhanced.NewEnhancedLockManager(backend, config, nil)
}

func queueing() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	return config
}

// boltManager has a queue; what finds a lock free does not enter it.
func boltManager(b *testing.B) *enhanced.EnhancedLockManager {
	b.Helper()
	file, err := bbolt.Open(filepath.Join(b.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, file.Close()) })
	config := queueing()
	backend, err := backends.NewBoltBackend(file, config, nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, backend.Close()) })
	return enhanced.NewEnhancedLockManager(backend, config, nil)
}

// wish is the request of a pull request for the ith resource of a repository.
func wish(i, pull int) *enhanced.EnhancedLockRequest {
	lock := lockOf("org/app", pull, "p"+strconv.Itoa(i))
	return &enhanced.EnhancedLockRequest{Project: lock.Project, Workspace: lock.Workspace, Pull: &lock.Pull, User: lock.User, Timeout: enhanced.NoTimeout}
}

// takeMany has one pull request hold n resources.
func takeMany(b *testing.B, manager *enhanced.EnhancedLockManager, n int) []*enhanced.EnhancedLock {
	b.Helper()
	locks := make([]*enhanced.EnhancedLock, n)
	errs := make([]error, n)
	const callers = 64
	var done sync.WaitGroup
	for caller := range callers {
		done.Go(func() {
			for i := caller; i < n; i += callers {
				locks[i], errs[i] = manager.Acquire(b.Context(), wish(i, 1))
			}
		})
	}
	done.Wait()
	require.NoError(b, errors.Join(errs...))
	return locks
}

// BenchmarkAcquire takes one more lock each time.
func BenchmarkAcquire(b *testing.B) {
	onEach(b, func(b *testing.B, manager *enhanced.EnhancedLockManager) {
		b.Helper()
		b.ReportAllocs()
		next := 0
		for b.Loop() {
			if _, err := manager.Acquire(b.Context(), wish(next, 1)); err != nil {
				b.Fatal(err)
			}
			next++
		}
	})
}

func BenchmarkRelease(b *testing.B) {
	onEach(b, func(b *testing.B, manager *enhanced.EnhancedLockManager) {
		b.Helper()
		// A part of its own, which is run again with more locks.
		b.Run("locks", func(b *testing.B) {
			locks := takeMany(b, manager, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for _, lock := range locks {
				if _, err := manager.Release(b.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkList lists 1,000 locks.
func BenchmarkList(b *testing.B) {
	const held = 1_000
	onEach(b, func(b *testing.B, manager *enhanced.EnhancedLockManager) {
		b.Helper()
		takeMany(b, manager, held)
		b.ReportAllocs()
		for b.Loop() {
			locks, err := manager.List(b.Context())
			if err != nil || len(locks) != held {
				b.Fatal(len(locks), err)
			}
		}
	})
}

// BenchmarkEnqueue is the time until a call waits in the queue of a lock that
// another pull request holds, each of another lock, when many come at once.
func BenchmarkEnqueue(b *testing.B) {
	b.Run("backend=bolt", func(b *testing.B) { enqueueMany(b, boltManager(b)) })
	b.Run("backend=redis", func(b *testing.B) { enqueueMany(b, redisManager(b, queueing())) })
}

func enqueueMany(b *testing.B, manager *enhanced.EnhancedLockManager) {
	b.Helper()
	b.Run("waiters", func(b *testing.B) {
		locks := takeMany(b, manager, b.N)
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		queued, err := manager.GetBackend().Subscribe(ctx, []string{enhanced.EventQueued})
		require.NoError(b, err)
		b.ReportAllocs()
		b.ResetTimer()
		var calls sync.WaitGroup
		for i := range b.N {
			calls.Go(func() {
				if _, err := manager.Acquire(ctx, wish(i, 2)); !errors.Is(err, context.Canceled) {
					b.Error(err)
				}
			})
		}
		for range b.N {
			<-queued
		}
		b.StopTimer()
		cancel()
		calls.Wait()
		for _, lock := range locks {
			if err := manager.GetBackend().ReleaseLock(b.Context(), lock.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
}
