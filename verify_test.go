package enhanced_test

import (
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestValidateRepair(t *testing.T) {
	t.Parallel()
	require.NoError(t, enhanced.ValidateRepair("user:bob", "the disk was full"))
	for name, c := range map[string]struct{ actor, reason, says string }{
		"no actor":            {"", "why", "owner"},
		"actor without kind":  {"bob", "why", `owner "bob"`},
		"no reason":           {"user:bob", "", "needs a reason"},
		"blank reason":        {"user:bob", " \u00a0 ", "needs a reason"},
		"reason with escapes": {"user:bob", "\x1b[2J", "control character"},
		"reason not in UTF-8": {"user:bob", "\xff", "UTF-8"},
		"long reason":         {"user:bob", strings.Repeat("x", 4097), "at most 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := enhanced.ValidateRepair(c.actor, c.reason)
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestManagerWithoutVerifier(t *testing.T) {
	t.Parallel()
	m := enhanced.NewEnhancedLockManager(nil, nil, nil)
	_, err := m.Verify(t.Context())
	require.ErrorContains(t, err, "backend is nil")
	_, err = m.Repair(t.Context(), "user:bob", "why")
	require.ErrorContains(t, err, "backend is nil")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
}
