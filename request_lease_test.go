package enhanced_test

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// A lease that ends before its grant is answered is a mistake in the
// configuration.
func TestConfiguredLeasesBelowAMillisecondAreRefused(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*enhanced.EnhancedConfig){
		"default_timeout":     func(c *enhanced.EnhancedConfig) { c.DefaultTimeout = time.Microsecond },
		"legacy_lock_timeout": func(c *enhanced.EnhancedConfig) { c.LegacyLockTimeout = time.Microsecond },
		"redis_lock_ttl":      func(c *enhanced.EnhancedConfig) { c.RedisLockTTL = time.Microsecond },
	} {
		config := enhanced.DefaultConfig()
		set(config)
		require.ErrorContains(t, config.Validate(), name+": 1µs is not a lease")
	}
}
