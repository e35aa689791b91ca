package enhanced_test

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestLogRecordEvent(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	expires := at.Add(time.Hour)
	held := &enhanced.LockSummary{Owner: "user:alice", Token: 7, ExpiresAt: &expires}
	unlimited := &enhanced.LockSummary{Owner: "user:alice", Token: 7}
	moved := &enhanced.LockSummary{Owner: "user:bob", Token: 8}
	record := enhanced.LogRecord{
		Sequence: 1<<64 - 1, Time: at, LockID: "tag-7", RequestID: "job", Resource: resource("a"),
		Token: 1<<53 + 1, Actor: "user:alice", Cause: enhanced.CauseRequest,
	}
	tests := map[string]struct {
		typ, reason   string
		before, after *enhanced.LockSummary
		owner         string
		extra         map[string]string
	}{
		"acquired":    {enhanced.EventAcquired, "", nil, held, "user:alice", map[string]string{"expires_at": "2026-01-02T04:04:05.000006Z"}},
		"no lease":    {enhanced.EventAcquired, "", nil, unlimited, "user:alice", nil},
		"released":    {enhanced.EventReleased, "", held, nil, "user:alice", nil},
		"forced":      {enhanced.EventReleased, "stuck", held, nil, "user:alice", map[string]string{"reason": "stuck"}},
		"transferred": {enhanced.EventTransferred, "", unlimited, moved, "user:bob", map[string]string{"previous_owner": "user:alice"}},
		"refreshed":   {enhanced.EventRefreshed, "", held, held, "user:alice", map[string]string{"expires_at": "2026-01-02T04:04:05.000006Z"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record
			r.Type, r.Reason, r.Before, r.After = test.typ, test.reason, test.before, test.after
			want := &enhanced.LockEvent{
				Type: test.typ, LockID: "tag-7", Resource: resource("a"), Owner: test.owner, Timestamp: at,
				Metadata: map[string]string{
					"sequence": "18446744073709551615", "token": "9007199254740993", "actor": "user:alice", "cause": "request",
				},
			}
			for key, value := range test.extra {
				want.Metadata[key] = value
			}
			require.Equal(t, want, r.Event())
		})
	}
}
