package backends_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
)

// BenchmarkRedisManagerPair is a lock and its release by a manager, without
// failures: what retries, circuit breaker and adaptive time-outs cost when they
// have nothing to do.
func BenchmarkRedisManagerPair(b *testing.B) {
	for name, config := range redisPairConfigs() {
		b.Run("guards="+name, func(b *testing.B) {
			backend := openRedis(b, redistest.Start(b, redistest.Options{}).Client(), config)
			m := enhanced.NewEnhancedLockManager(backend, config, nil)
			release := enhanced.ReleaseRequest{Resource: by("org/app", ".", "ann").Resource, Owner: "user:ann"}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := m.TryAcquire(b.Context(), by("org/app", ".", "ann")); err != nil {
					b.Fatal(err)
				}
				if _, err := m.Release(b.Context(), release); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func redisPairConfigs() map[string]*enhanced.EnhancedConfig {
	return map[string]*enhanced.EnhancedConfig{
		"none": {},
		"all":  {EnableRetry: true, EnableCircuitBreaker: true, EnableAdaptiveTimeout: true},
	}
}
