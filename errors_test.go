package enhanced_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// sentinels returns every sentinel with its documented code.
func sentinels() map[string]error {
	return map[string]error{
		"LOCK_EXISTS":       enhanced.ErrLockExists,
		"LOCK_NOT_FOUND":    enhanced.ErrLockNotFound,
		"LOCK_EXPIRED":      enhanced.ErrLockExpired,
		"TIMEOUT":           enhanced.ErrTimeout,
		"QUEUE_FULL":        enhanced.ErrQueueFull,
		"DEADLOCK":          enhanced.ErrDeadlock,
		"BACKEND_ERROR":     enhanced.ErrBackend,
		"INVALID_REQUEST":   enhanced.ErrInvalidRequest,
		"PERMISSION_DENIED": enhanced.ErrPermissionDenied,
	}
}

func TestErrorsMatchTheSentinelOfTheirCodeOnly(t *testing.T) {
	t.Parallel()
	for code, own := range sentinels() {
		wrapped := fmt.Errorf("plan: %w", &enhanced.LockError{Code: code, Message: "text", Err: io.EOF})
		for other, sentinel := range sentinels() {
			require.Equal(t, other == code, errors.Is(wrapped, sentinel), "%s is %s", code, other)
			require.Equal(t, other == code, errors.Is(own, sentinel), "%s is %s", code, other)
		}
		require.ErrorIs(t, wrapped, io.EOF, "the cause can be found")
		var lockErr *enhanced.LockError
		require.ErrorAs(t, wrapped, &lockErr)
		require.Equal(t, code, lockErr.Code)
	}
	require.NotErrorIs(t, io.EOF, enhanced.ErrBackend)
	require.NotErrorIs(t, enhanced.ErrBackend, io.EOF)
}

func TestErrorMessages(t *testing.T) {
	t.Parallel()
	r := enhanced.ResourceIdentifier{
		Type: enhanced.ResourceTypeProject, Namespace: "org/app", Path: "envs/prod", Workspace: "default", Name: "api",
	}
	const named = "org/app (path envs/prod, workspace default, project api)"
	holder := &enhanced.EnhancedLock{Owner: "pr:github.com/org%2Fapp/5"}
	noted := &enhanced.EnhancedLock{Owner: "user:alice", Metadata: map[string]string{"note": "incident 42", "other": "x"}}

	tests := map[string]struct {
		err  *enhanced.LockError
		code string
		text string
	}{
		"held":           {enhanced.NewHeldError(r, holder), "LOCK_EXISTS", named + " is locked by pull request 5 on github.com"},
		"held with note": {enhanced.NewHeldError(r, noted), "LOCK_EXISTS", named + " is locked by user alice (note: incident 42)"},
		"denied":         {enhanced.NewDeniedError(r, noted, "user:bob"), "PERMISSION_DENIED", named + " is locked by user alice (note: incident 42), not by user bob"},
		"not found":      {enhanced.NewNotFoundError(r), "LOCK_NOT_FOUND", named + " is not locked"},
		"unknown ID":     {enhanced.NewUnknownLockError("a\nb"), "LOCK_NOT_FOUND", `no lock has the ID "a\nb"`},
		"expired":        {enhanced.NewExpiredError("tag-7", r), "LOCK_EXPIRED", "the lease of lock tag-7 on " + named + " has ended"},
		"invalid":        {enhanced.NewInvalidError("timeout %v", -1), "INVALID_REQUEST", "timeout -1"},
		"backend":        {enhanced.NewBackendError("list locks", io.ErrUnexpectedEOF), "BACKEND_ERROR", "list locks: unexpected EOF"},
		"corrupt":        {enhanced.NewCorruptError(r, "b/key"), "LOCK_EXISTS", named + ` counts as locked, its record "b/key" needs repair: unreadable record`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.EqualError(t, test.err, test.text)
			require.Equal(t, test.code, test.err.Code)
			require.ErrorIs(t, test.err, sentinels()[test.code])
		})
	}

	require.Equal(t, holder, enhanced.NewHeldError(r, holder).Holder)
	require.Equal(t, noted, enhanced.NewDeniedError(r, noted, "user:bob").Holder)
	require.Equal(t, r, enhanced.NewHeldError(r, holder).Resource)
	require.Equal(t, r, enhanced.NewNotFoundError(r).Resource)
	require.ErrorIs(t, enhanced.NewCorruptError(r, "b/key"), enhanced.ErrCorruptRecord)
	require.Equal(t, io.EOF, errors.Unwrap(enhanced.NewBackendError("read", io.EOF)))
	require.NoError(t, errors.Unwrap(enhanced.NewNotFoundError(r)))
}
