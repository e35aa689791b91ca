package enhanced_test

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-viper/mapstructure/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestEveryFieldHasItsMapstructureTag(t *testing.T) {
	t.Parallel()
	boundary := regexp.MustCompile(`([a-z])([A-Z])`)
	typ := reflect.TypeFor[enhanced.EnhancedConfig]()
	require.NotZero(t, typ.NumField())
	for i := range typ.NumField() {
		field := typ.Field(i)
		want := strings.ToLower(boundary.ReplaceAllString(field.Name, "${1}_${2}"))
		require.Equal(t, want, field.Tag.Get("mapstructure"), field.Name)
	}
}

func TestConfigDecodesFromAMap(t *testing.T) {
	t.Parallel()
	want := distinctConfig(t)
	values := make(map[string]any)
	fields := reflect.ValueOf(want)
	for i := range fields.NumField() {
		value := fields.Field(i).Interface()
		if duration, ok := value.(time.Duration); ok {
			value = duration.String() // as configuration files write it
		}
		values[fields.Type().Field(i).Tag.Get("mapstructure")] = value
	}
	var got enhanced.EnhancedConfig
	require.NoError(t, decodeConfig(values, &got))
	require.Equal(t, want, got)
}

func TestConfigDecodesOverDefaults(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	require.NoError(t, decodeConfig(map[string]any{"enabled": true, "default_timeout": "15m"}, config))
	want := specifiedDefaults()
	want.Enabled, want.DefaultTimeout = true, 15*time.Minute
	require.Equal(t, want, *config)
}

func TestConfigRefusesUnknownKeys(t *testing.T) {
	t.Parallel()
	var config enhanced.EnhancedConfig
	require.ErrorContains(t, decodeConfig(map[string]any{"default_timeuot": "15m"}, &config), "default_timeuot")
}

// decodeConfig decodes as programs that read configuration files do.
func decodeConfig(values map[string]any, config *enhanced.EnhancedConfig) error {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		DecodeHook:  mapstructure.StringToTimeDurationHookFunc(),
		ErrorUnused: true,
		Result:      config,
	})
	if err != nil {
		return err
	}
	return decoder.Decode(values)
}
