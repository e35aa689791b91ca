package web

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// deadlineWriter remembers the read deadlines of its connection.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	deadlines, writeDeadlines []time.Time
}

func (w *deadlineWriter) SetReadDeadline(at time.Time) error {
	w.deadlines = append(w.deadlines, at)
	return nil
}

func (w *deadlineWriter) SetWriteDeadline(at time.Time) error {
	w.writeDeadlines = append(w.writeDeadlines, at)
	return nil
}

// A call that waits for a lock is answered whenever that is.
func TestWhoWaitsHasNoWriteDeadline(t *testing.T) {
	manager := enhanced.NewEnhancedLockManager(nil, nil, nil)
	for path, want := range map[string][]time.Time{api.WaitPath: {{}}, api.LocksPath: nil} {
		w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("POST", path, strings.NewReader(`{}`))
		r.Header.Set("Content-Type", "application/json")
		NewHandler(manager, Options{}).ServeHTTP(w, r)
		require.Equal(t, want, w.writeDeadlines, path)
	}
}

// While the body is read there is a deadline; while the operation runs there is
// none, since it would end the request's context.
func TestReadDeadlineEndsWithTheBody(t *testing.T) {
	manager := enhanced.NewEnhancedLockManager(nil, nil, nil)
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest("POST", api.ImportPath, strings.NewReader(`{}`))
	r.Header.Set("Content-Type", "application/json")
	NewHandler(manager, Options{}).ServeHTTP(w, r)
	require.Len(t, w.deadlines, 2)
	require.False(t, w.deadlines[0].IsZero())
	require.True(t, w.deadlines[1].IsZero())
}
