package enhanced_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestPriorities(t *testing.T) {
	t.Parallel()
	tests := map[string]enhanced.Priority{
		"low": enhanced.PriorityLow, "normal": enhanced.PriorityNormal,
		"high": enhanced.PriorityHigh, "critical": enhanced.PriorityCritical,
	}
	for name, priority := range tests {
		require.Equal(t, name, priority.String())
		parsed, err := enhanced.ParsePriority(name)
		require.NoError(t, err)
		require.Equal(t, priority, parsed)
	}
	require.Equal(t, enhanced.Priority(0), enhanced.PriorityLow, "a request's zero value")
	require.Less(t, enhanced.PriorityLow, enhanced.PriorityNormal)
	require.Less(t, enhanced.PriorityNormal, enhanced.PriorityHigh)
	require.Less(t, enhanced.PriorityHigh, enhanced.PriorityCritical)
}

func TestUnknownPriorities(t *testing.T) {
	t.Parallel()
	require.Equal(t, "priority(-1)", enhanced.Priority(-1).String())
	require.Equal(t, "priority(4)", enhanced.Priority(4).String())
	for _, name := range []string{"", "High", "priority(1)", "1", " low"} {
		_, err := enhanced.ParsePriority(name)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
		require.ErrorContains(t, err, "critical", "the message says what would be right")
	}
}
