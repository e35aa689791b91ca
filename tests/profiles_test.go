package tests

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	libredis "github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// The profiles of docs/tuning.md. The specification's are literals of these fields;
// Enabled, and the queue where a profile sizes it, are added.

func profileHighThroughput() *enhanced.EnhancedConfig {
	return &enhanced.EnhancedConfig{
		Enabled: true, EnablePriorityQueue: true,
		MaxQueueSize:   10000,
		DefaultTimeout: 15 * time.Minute,
		EnableRetry:    true, MaxRetryAttempts: 2,
		RedisClusterMode: true,
	}
}

func profileLowLatency() *enhanced.EnhancedConfig {
	return &enhanced.EnhancedConfig{
		Enabled:                 true,
		EnablePriorityQueue:     false,
		EnableDeadlockDetection: false,
		DefaultTimeout:          5 * time.Minute,
		RedisClusterMode:        false,
	}
}

func profileMemory() *enhanced.EnhancedConfig {
	return &enhanced.EnhancedConfig{
		Enabled: true, EnablePriorityQueue: true,
		RedisLockTTL:    30 * time.Minute,
		MaxQueueSize:    100,
		EventBufferSize: 100,
	}
}

// profileDefault is the one that the others are compared with: with the queue on,
// and like them without stock's form of each lock.
func profileDefault() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.Enabled, config.EnablePriorityQueue, config.PreserveLegacyFormat = true, true, false
	return config
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*enhanced.EnhancedConfig{
		"high throughput": profileHighThroughput(), "low latency": profileLowLatency(), "memory": profileMemory(),
	} {
		require.NoError(t, config.Validate(), name)
	}
	page, err := os.ReadFile("../docs/tuning.md")
	require.NoError(t, err)
	source, err := os.ReadFile("profiles_test.go")
	require.NoError(t, err)
	blocks := strings.Split(string(page), "```go\n")[1:]
	require.Len(t, blocks, 3)
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		require.Contains(t, string(source), code, "the page shows what is tested")
	}
	// What MaxQueueSize promises.
	const waiters = 110
	for size, config := range map[int]*enhanced.EnhancedConfig{100: profileMemory(), waiters: profileDefault(), 0: profileLowLatency()} {
		adapter, _ := newProfile(t, config)
		take(t, adapter, lockOf(project, 1, "."))
		for i := range waiters {
			refused(t, adapter, lockOf(project, i+2, "."), 1)
		}
		stats, err := adapter.GetEnhancedStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, size, stats.QueueDepth)
	}
}

// newProfile returns an adapter on a Redis of its own, or on a cluster.
func newProfile(tb testing.TB, config *enhanced.EnhancedConfig) (*enhanced.LockingAdapter, libredis.UniversalClient) {
	tb.Helper()
	var client libredis.UniversalClient
	if config.RedisClusterMode {
		client = redistest.StartCluster(tb, 3, 0, redistest.Options{}).Client()
	} else {
		client = redistest.Start(tb, redistest.Options{}).Client()
	}
	backend := backends.NewRedisBackend(client, config, nil)
	tb.Cleanup(func() { require.NoError(tb, backend.Close()) })
	return enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, nil, nil), client
}

// BenchmarkProfiles is what docs/tuning.md shows: a lock that is free, taken and
// released by one caller and by 16 in repositories of their own, and a refusal.
func BenchmarkProfiles(b *testing.B) {
	for _, profile := range []struct {
		name   string
		config *enhanced.EnhancedConfig
	}{
		{"default", profileDefault()}, {"throughput", profileHighThroughput()},
		{"latency", profileLowLatency()}, {"memory", profileMemory()},
	} {
		b.Run("profile="+profile.name, func(b *testing.B) {
			if testing.Short() && profile.config.RedisClusterMode {
				b.Skip("with little data no cluster is worth its start")
			}
			adapter, client := newProfile(b, profile.config)
			for _, callers := range []int{1, 16} {
				b.Run("pair/callers="+strconv.Itoa(callers), func(b *testing.B) { benchmarkPairs(b, adapter, callers) })
			}
			b.Run("refusal", func(b *testing.B) { benchmarkRefusals(b, adapter, client) })
		})
	}
}

func benchmarkPairs(b *testing.B, adapter *enhanced.LockingAdapter, callers int) {
	b.Helper()
	var done sync.WaitGroup
	b.ResetTimer()
	for caller := range callers {
		done.Go(func() {
			lock := lockOf("org/app"+strconv.Itoa(caller), 1, ".")
			for range b.N/callers + 1 {
				acquired, _, err := adapter.TryLock(lock)
				if err == nil && acquired {
					_, err = adapter.Unlock(lock.Project, lock.Workspace)
				}
				if err != nil || !acquired {
					b.Error(acquired, err)
					return
				}
			}
		})
	}
	done.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
}

// benchmarkRefusals has up to 1,000 pull requests want one lock, again and again.
// The memory is that of a server alone.
func benchmarkRefusals(b *testing.B, adapter *enhanced.LockingAdapter, client libredis.UniversalClient) {
	b.Helper()
	memory := func() float64 {
		info := client.InfoMap(b.Context(), "memory")
		require.NoError(b, info.Err())
		bytes, err := strconv.ParseFloat(info.Item("Memory", "used_memory"), 64)
		require.NoError(b, err)
		return bytes
	}
	before := memory()
	_, _, err := adapter.TryLock(lockOf("org/held", 1, ".")) // or it holds it already
	require.NoError(b, err)
	next := 0
	for b.Loop() {
		if acquired, _, err := adapter.TryLock(lockOf("org/held", 2+next%1000, ".")); err != nil || acquired {
			b.Fatal(acquired, err)
		}
		next++
	}
	if _, cluster := client.(*libredis.ClusterClient); !cluster {
		b.ReportMetric((memory()-before)/1024, "KiB")
	}
	stats, err := adapter.GetEnhancedStats(b.Context())
	require.NoError(b, err)
	b.ReportMetric(float64(stats.QueueDepth), "waiters")
}

// BenchmarkCapacity is what docs/redis.md shows of one repository with many locks.
func BenchmarkCapacity(b *testing.B) {
	counts := []int{1_000, 10_000, 100_000}
	if testing.Short() {
		counts = []int{100}
	}
	for _, held := range counts {
		onEach(b, func(b *testing.B, manager *enhanced.EnhancedLockManager) {
			b.Helper()
			takeMany(b, manager, held)
			b.Run("held="+strconv.Itoa(held)+"/pair", func(b *testing.B) {
				for b.Loop() {
					lock, err := manager.Acquire(b.Context(), wish(held, 2))
					if err == nil {
						_, err = manager.Release(b.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("held="+strconv.Itoa(held)+"/list", func(b *testing.B) {
				for b.Loop() {
					if locks, err := manager.List(b.Context()); err != nil || len(locks) < held {
						b.Fatal(len(locks), err)
					}
				}
			})
			b.Run("held="+strconv.Itoa(held)+"/stats", func(b *testing.B) {
				for b.Loop() {
					if _, err := manager.GetStats(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
