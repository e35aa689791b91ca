package enhanced_test

import (
	"reflect"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// specifiedDefaults are the defaults of the documentation, written out.
func specifiedDefaults() enhanced.EnhancedConfig {
	return enhanced.EnhancedConfig{
		Backend:          "boltdb",
		DefaultTimeout:   30 * time.Minute,
		MaxTimeout:       2 * time.Hour,
		OperationTimeout: 5 * time.Second,

		MaxQueueSize:      1000,
		QueueTimeout:      10 * time.Minute,
		QueueClaimTimeout: 30 * time.Minute,
		ReplanWindow:      time.Hour,
		WaiterLiveness:    10 * time.Second,
		TombstoneTTL:      24 * time.Hour,
		SetReserveAfter:   time.Minute,

		MaxRetryAttempts: 3,
		RetryBaseDelay:   time.Second,
		RetryMaxDelay:    30 * time.Second,

		CircuitFailureThreshold: 5,
		CircuitOpenTimeout:      2 * time.Second,
		AdaptiveTimeoutMin:      100 * time.Millisecond,
		AdaptiveTimeoutMax:      5 * time.Second,

		DeadlockCheckInterval: 30 * time.Second,
		ResolutionPolicy:      "lowest_priority",
		DeadlockCheckLimit:    1000,

		EventBufferSize: 1000,
		LogMaxAge:       30 * 24 * time.Hour,
		LogMaxRecords:   100_000,

		RedisKeyPrefix: "atlantis:lock:",
		RedisLockTTL:   time.Hour,

		LegacyFallback:       true,
		PreserveLegacyFormat: true,
	}
}

func TestDefaultConfig(t *testing.T) {
	t.Parallel()
	require.Equal(t, specifiedDefaults(), *enhanced.DefaultConfig())
	require.NoError(t, enhanced.DefaultConfig().Validate())
}

func TestDefaultConfigIsACopy(t *testing.T) {
	t.Parallel()
	enhanced.DefaultConfig().MaxQueueSize = 7
	require.Equal(t, 1000, enhanced.DefaultConfig().MaxQueueSize)
}

func TestZeroValuesMeanDefaults(t *testing.T) {
	t.Parallel()
	want := specifiedDefaults()
	// A zero boolean can't be told from one that was switched off.
	want.LegacyFallback, want.PreserveLegacyFormat = false, false
	var zero enhanced.EnhancedConfig
	require.Equal(t, want, *zero.WithDefaults())
	require.Equal(t, enhanced.EnhancedConfig{}, zero, "the receiver stays as it is")
	require.NoError(t, zero.Validate())
}

func TestDefaultsReplaceOnlyZeroValues(t *testing.T) {
	t.Parallel()
	config := distinctConfig(t)
	require.Equal(t, config, *config.WithDefaults())
	typ := reflect.TypeFor[enhanced.EnhancedConfig]()
	for i := range typ.NumField() {
		require.False(t, reflect.ValueOf(config).Field(i).IsZero(), typ.Field(i).Name)
	}
}

// distinctConfig returns a configuration in which every field has a value of
// its own that is not its default.
func distinctConfig(t *testing.T) enhanced.EnhancedConfig {
	t.Helper()
	var config enhanced.EnhancedConfig
	fields := reflect.ValueOf(&config).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Name
		switch field := fields.Field(i); field.Interface().(type) {
		case bool:
			field.SetBool(true)
		case int, time.Duration:
			field.SetInt(int64(i + 101))
		case string:
			field.SetString("text of " + name)
		case []enhanced.QueueScope:
			config.QueueFor = []enhanced.QueueScope{{Repository: "r", Path: "p", Workspace: "w", User: "u"}}
		case []enhanced.PriorityRule:
			config.PriorityRules = []enhanced.PriorityRule{{Repository: "r", Path: "p", Workspace: "w", User: "u", Priority: "high"}}
		default:
			t.Fatalf("field %s has the type %s; say here what a value of it looks like", name, field.Type())
		}
	}
	return config
}
