package options_test

import (
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/stretchr/testify/require"
)

func TestNamesOfVariables(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]struct{ mistyped, doubtful string }{
		"X_QUEUE_SZIE=1":                  {"X_QUEUE_SZIE: there is no such variable; did you mean X_QUEUE_SIZE?", ""},
		"X_queue_size=1":                  {"X_queue_size: there is no such variable; did you mean X_QUEUE_SIZE?", ""},
		"X_STORE_PASSWORT=hunter2":        {"X_STORE_PASSWORT: there is no such variable; did you mean X_PASSWORD?", ""},
		"X_QUEUE_POLICY=last":             {"X_QUEUE_POLICY: there is no such variable; did you mean X_POLICY?", ""},
		"X_STORE_HOST=here":               {"X_STORE_HOST: there is no such variable; did you mean ATLANTIS_STORE_HOST?", ""},
		"X_HOM=here":                      {"X_HOM: there is no such variable; did you mean X_HOME?", ""},
		"X_HOST=here":                     {"", "X_HOST: there is no such variable"},
		"X_SOMETHING_ELSE=hunter2":        {"", "X_SOMETHING_ELSE: there is no such variable"},
		"ATLANTIS_STORE_PASSWORT=hunter2": {"", "ATLANTIS_STORE_PASSWORT: has no effect; did you mean ATLANTIS_STORE_PASSWORD?"},
		"ATLANTIS_STORE_PASSWODR=hunter2": {"", "ATLANTIS_STORE_PASSWODR: has no effect; did you mean ATLANTIS_STORE_PASSWORD?"},
		"ATLANTIS_WEB_PASSWORD=hunter2":   {},
		"STORE_PASSWORT=hunter2":          {},
		"X_QUEUE_SZIE=":                   {},
		"X_QUEUE_SIZE=none":               {},
		"X_HOME=here":                     {},
		"X_PORT=tcp://10.0.0.1:4142":      {},
		"X_SERVICE_HOST=10.0.0.1":         {},
		"X_SERVICE_PORT_HTTP=4142":        {},
		"X_PORT_4142_TCP=tcp://10.0.0.1":  {},
		"X_PORT_4142_TCP_ADDR=10.0.0.1":   {},
		"X_PORT=4142":                     {"", "X_PORT: there is no such variable"},
	} {
		mistyped, doubtful := set().CheckNames([]string{"PATH=/bin", entry}, "X_HOME")
		require.Equal(t, want.mistyped, said(t, mistyped), entry)
		require.Equal(t, want.doubtful, said(t, doubtful), entry)
	}
}

// said is what the only problem says, "" for none.
func said(t *testing.T, problems []options.Problem) string {
	t.Helper()
	if len(problems) == 0 {
		return ""
	}
	require.Len(t, problems, 1)
	return problems[0].Error()
}
