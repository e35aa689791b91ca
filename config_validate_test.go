package enhanced_test

import (
	"reflect"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		config enhanced.EnhancedConfig
		// named is what the message must contain: fields and their values.
		named []string
	}{
		"default above max": {
			enhanced.EnhancedConfig{DefaultTimeout: 3 * time.Hour, MaxTimeout: time.Hour},
			[]string{"default_timeout: 3h0m0s", "max_timeout: 1h0m0s"},
		},
		"default above the default max": {
			enhanced.EnhancedConfig{DefaultTimeout: 3 * time.Hour},
			[]string{"default_timeout: 3h0m0s", "max_timeout: 2h0m0s"},
		},
		"max below the default default": {
			enhanced.EnhancedConfig{MaxTimeout: time.Minute},
			[]string{"default_timeout: 30m0s", "max_timeout: 1m0s"},
		},
		"legacy above max": {
			enhanced.EnhancedConfig{LegacyLockTimeout: 5 * time.Hour, MaxTimeout: 4 * time.Hour},
			[]string{"legacy_lock_timeout: 5h0m0s", "max_timeout: 4h0m0s"},
		},
		"retry base above max": {
			enhanced.EnhancedConfig{RetryBaseDelay: time.Minute, RetryMaxDelay: 2 * time.Second},
			[]string{"retry_base_delay: 1m0s", "retry_max_delay: 2s"},
		},
		"retry max below the default base": {
			enhanced.EnhancedConfig{RetryMaxDelay: time.Millisecond},
			[]string{"retry_base_delay: 1s", "retry_max_delay: 1ms"},
		},
		"prevention without queue": {
			enhanced.EnhancedConfig{DeadlockPrevention: true},
			[]string{"deadlock_prevention: true", "enable_priority_queue", "false"},
		},
		"unknown backend":             {enhanced.EnhancedConfig{Backend: "etcd"}, []string{"backend", `"etcd"`, "boltdb", "redis"}},
		"backend in another case":     {enhanced.EnhancedConfig{Backend: "Redis"}, []string{"backend", `"Redis"`}},
		"unknown policy":              {enhanced.EnhancedConfig{ResolutionPolicy: "coin"}, []string{"resolution_policy", `"coin"`, "lowest_priority"}},
		"braces in the prefix":        {enhanced.EnhancedConfig{RedisKeyPrefix: "a:{b}:"}, []string{"redis_key_prefix", `"a:{b}:"`}},
		"closing brace in the prefix": {enhanced.EnhancedConfig{RedisKeyPrefix: "a}"}, []string{"redis_key_prefix", `"a}"`}},
		"star in the prefix":          {enhanced.EnhancedConfig{RedisKeyPrefix: "a*"}, []string{"redis_key_prefix", `"a*"`}},
		"question mark in the prefix": {enhanced.EnhancedConfig{RedisKeyPrefix: "a?"}, []string{"redis_key_prefix", `"a?"`}},
		"brackets in the prefix":      {enhanced.EnhancedConfig{RedisKeyPrefix: "a[1]"}, []string{"redis_key_prefix", `"a[1]"`}},
		"backslash in the prefix":     {enhanced.EnhancedConfig{RedisKeyPrefix: `a\`}, []string{"redis_key_prefix", `"a\\"`}},
		"control character in prefix": {enhanced.EnhancedConfig{RedisKeyPrefix: "a\n"}, []string{"redis_key_prefix", `"a\n"`}},
		"invalid UTF-8 in the prefix": {enhanced.EnhancedConfig{RedisKeyPrefix: "a\xff"}, []string{"redis_key_prefix", `"a\xff"`}},
		"everything wrong in one answer": {
			enhanced.EnhancedConfig{Backend: "etcd", ResolutionPolicy: "coin", MaxQueueSize: -1, QueueTimeout: -1, DeadlockPrevention: true},
			[]string{`"etcd"`, `"coin"`, "max_queue_size: -1", "queue_timeout: -1ns", "deadlock_prevention"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := test.config
			err := test.config.Validate()
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			for _, part := range test.named {
				require.ErrorContains(t, err, part)
			}
			require.Equal(t, before, test.config, "Validate changed its receiver")
		})
	}
}

func TestValidateRefusesNegativeValuesOfEveryField(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[enhanced.EnhancedConfig]()
	for i := range typ.NumField() {
		var want string
		switch typ.Field(i).Type {
		case reflect.TypeFor[time.Duration]():
			want = ": -1ns is negative"
		case reflect.TypeFor[int]():
			want = ": -1 is negative"
		default:
			continue
		}
		var config enhanced.EnhancedConfig
		reflect.ValueOf(&config).Elem().Field(i).SetInt(-1)
		err := config.Validate()
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, typ.Field(i).Name)
		require.ErrorContains(t, err, typ.Field(i).Tag.Get("mapstructure")+want)
	}
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	tests := map[string]enhanced.EnhancedConfig{
		"all zero":              {},
		"equal limits":          {DefaultTimeout: time.Hour, MaxTimeout: time.Hour, LegacyLockTimeout: time.Hour},
		"equal retry delays":    {RetryBaseDelay: time.Second, RetryMaxDelay: time.Second},
		"prevention with queue": {DeadlockPrevention: true, EnablePriorityQueue: true},
		"redis":                 {Backend: enhanced.BackendRedis},
		"a prefix of letters":   {RedisKeyPrefix: "team-a/äöü:lock:"},
		"youngest":              {ResolutionPolicy: enhanced.PolicyYoungest},
		"oldest":                {ResolutionPolicy: enhanced.PolicyOldest},
		"fewest locks":          {ResolutionPolicy: enhanced.PolicyFewestLocks},
		"most locks":            {ResolutionPolicy: enhanced.PolicyMostLocks},
		"random":                {ResolutionPolicy: enhanced.PolicyRandom},
		"no policy":             {ResolutionPolicy: enhanced.PolicyNone},
		"the shortest leases":   {DefaultTimeout: time.Millisecond, MaxTimeout: time.Millisecond, LegacyLockTimeout: time.Millisecond},
	}
	for name, config := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := config
			require.NoError(t, config.Validate())
			require.Equal(t, before, config, "Validate changed its receiver")
		})
	}
}

func TestValidateNil(t *testing.T) {
	t.Parallel()
	var config *enhanced.EnhancedConfig
	require.ErrorIs(t, config.Validate(), enhanced.ErrInvalidRequest)
}
