package backends

import (
	"context"
	"os"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// overdue is a context whose deadline has come, and which has not been told yet.
type overdue struct{ context.Context }

func (overdue) Deadline() (time.Time, bool) { return time.Now(), true }

// A connection can learn of a context's deadline before the context does: the answer is
// that the context has ended all the same.
func TestRedisDeadlineThatTheClientSeesFirst(t *testing.T) {
	t.Parallel()
	err := failure(overdue{t.Context()}, "list", false, os.ErrDeadlineExceeded)
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, failure(t.Context(), "list", false, os.ErrDeadlineExceeded), enhanced.ErrBackend)
}
