package web_test

import (
	"net/http"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestCompatibility(t *testing.T) {
	s, _ := startServerOn(t)
	decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	report := decode[api.CompatibilityReport](t, s.post(t, api.CompatibilityPath, ""), http.StatusOK)
	require.True(t, report.Success, "%+v", report)
	require.NotEmpty(t, report.Checks)
	for _, check := range report.Checks {
		require.Equal(t, enhanced.CompatibilityPassed, check.Result)
		require.Empty(t, check.Detail+check.Remedy)
	}
	locks, err := s.backend.ListLocks(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, 1, "those of others stay, its own do not")
	require.Equal(t, "user:alice", locks[0].Owner)
}
