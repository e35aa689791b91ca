package enhanced_test

import (
	"encoding/json"
	"errors"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// Whatever a file or the environment holds either ends in a configuration that
// keeps its promises, or in an error that says what is wrong.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"enabled":true,"backend":"redis","redis_key_prefix":"atlantis:lock:"}`,
		`{"default_timeout":"2h","max_timeout":"1h"}`, `{"default_timeout":"-1s"}`, `{"default_timeout":"1ns"}`,
		`{"max_timeout":9223372036854775807,"legacy_lock_timeout":"1h"}`, `{"max_queue_size":-1,"log_max_records":0}`,
		`{"redis_key_prefix":"a{b}*"}`, `{"redis_key_prefix":"\u0000"}`, `{"resolution_policy":"coin"}`,
		`{"deadlock_prevention":true,"enable_priority_queue":false}`, `{"retry_base_delay":"1m","retry_max_delay":"1s"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var values map[string]any
		if json.Unmarshal(data, &values) != nil {
			return
		}
		var config enhanced.EnhancedConfig
		if decodeConfig(values, &config) != nil {
			return
		}
		before := config
		err := config.Validate()
		require.Equal(t, before, config, "validation changes nothing")
		full := config.WithDefaults()
		require.Equal(t, full, full.WithDefaults(), "defaults are final")
		if err != nil {
			var lockErr *enhanced.LockError
			require.ErrorAs(t, err, &lockErr)
			require.Equal(t, enhanced.ErrCodeInvalidRequest, lockErr.Code)
			require.NotEmpty(t, errors.Unwrap(lockErr).Error(), "it says what is wrong")
			require.Error(t, full.Validate(), "defaults hide nothing")
			return
		}
		require.NoError(t, full.Validate())
		require.Positive(t, full.OperationTimeout)
		require.LessOrEqual(t, full.DefaultTimeout, full.MaxTimeout)
		require.LessOrEqual(t, full.LegacyLockTimeout, full.MaxTimeout)
		require.LessOrEqual(t, full.RetryBaseDelay, full.RetryMaxDelay)
		require.GreaterOrEqual(t, full.LogMaxRecords, 1)
	})
}
