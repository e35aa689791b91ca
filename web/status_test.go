package web_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestEveryCodeHasItsStatus(t *testing.T) {
	for code, status := range map[string]int{
		enhanced.ErrCodeLockExists:       http.StatusConflict,
		enhanced.ErrCodeLockNotFound:     http.StatusNotFound,
		enhanced.ErrCodeLockExpired:      http.StatusGone,
		enhanced.ErrCodeTimeout:          http.StatusGatewayTimeout,
		enhanced.ErrCodeQueueFull:        http.StatusTooManyRequests,
		enhanced.ErrCodeDeadlock:         http.StatusConflict,
		enhanced.ErrCodeBackendError:     http.StatusServiceUnavailable,
		enhanced.ErrCodeInvalidRequest:   http.StatusUnprocessableEntity,
		enhanced.ErrCodePermissionDenied: http.StatusForbidden,
		"SOMETHING_NEW":                  http.StatusInternalServerError,
	} {
		t.Run(code, func(t *testing.T) {
			s := startServer(t, failWith(&enhanced.LockError{Code: code, Message: "no"}))
			for _, r := range []reply{s.post(t, api.LocksPath, freezeProd), s.get(t, api.LocksPath)} {
				p := problem(t, r, status, code)
				require.False(t, p.OutcomeUnknown)
				require.Nil(t, p.Holder)
			}
			problem(t, s.get(t, api.ReadyPath), http.StatusServiceUnavailable, code)
			require.Equal(t, http.StatusOK, s.get(t, api.LivePath).StatusCode)
		})
	}
}

// A cause is for the log. Only what is wrong with a request is told in full.
func TestCausesAreNotTold(t *testing.T) {
	secret := errors.New("dial redis://user:hunter2@10.0.0.1:6379")
	for code, told := range map[string]string{
		enhanced.ErrCodeBackendError:     "",
		enhanced.ErrCodePermissionDenied: "",
		enhanced.ErrCodeTimeout:          "",
		enhanced.ErrCodeInvalidRequest:   "redis://user:<redacted>@10.0.0.1:6379",
	} {
		t.Run(code, func(t *testing.T) {
			s := startServer(t, failWith(&enhanced.LockError{Code: code, Message: "at https://bot:hunter2@github.com", Err: secret}))
			r := s.post(t, api.LocksPath, freezeProd)
			p := decode[api.Problem](t, r, r.StatusCode)
			require.Contains(t, p.Detail, "https://bot:<redacted>@github.com")
			require.NotContains(t, string(r.body), "hunter2")
			if told == "" {
				require.NotContains(t, p.Detail, "10.0.0.1")
			} else {
				require.Contains(t, p.Detail, told)
			}
		})
	}
	s := startServer(t, failWith(secret))
	r := s.get(t, api.LocksPath)
	problem(t, r, http.StatusInternalServerError, "INTERNAL_SERVER_ERROR")
	require.NotContains(t, string(r.body), "10.0.0.1")
}

func TestOutcomeUnknownIsTold(t *testing.T) {
	s := startServer(t, failWith(&enhanced.LockError{Code: enhanced.ErrCodeTimeout, Message: "too slow", Err: enhanced.ErrOutcomeUnknown}))
	require.True(t, problem(t, s.post(t, api.LocksPath, freezeProd), http.StatusGatewayTimeout, "TIMEOUT").OutcomeUnknown)
}

func TestAuthorizerIsAsked(t *testing.T) {
	authorizer := enhanced.WithAuthorizer(func(_ context.Context, r enhanced.AuthorizationRequest) error {
		if r.Actor == "user:bob" && r.Action == enhanced.ActionForceRelease {
			return errors.New("bob may not")
		}
		return nil
	})
	s := startServer(t, nil, authorizer)
	decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	p := problem(t, s.post(t, api.UnlockPath, `{`+prod+`,"force":true,"actor":"bob","reason":"r"}`), http.StatusForbidden, "PERMISSION_DENIED")
	require.Contains(t, p.Detail, "user bob may not force_release")
	decode[api.Unlocked](t, s.post(t, api.UnlockPath, `{`+prod+`,"force":true,"actor":"carol","reason":"r"}`), http.StatusOK)
}

// panicking is a backend with a fault.
type panicking struct{ enhanced.Backend }

func (panicking) ListLocks(context.Context) ([]*enhanced.EnhancedLock, error) { panic("hunter2") }

func TestPanicIsContained(t *testing.T) {
	s := startServer(t, func(b enhanced.Backend) enhanced.Backend { return panicking{b} })
	r := s.get(t, api.LocksPath)
	problem(t, r, http.StatusInternalServerError, "INTERNAL_SERVER_ERROR")
	require.NotContains(t, string(r.body), "hunter2")
	require.Equal(t, http.StatusOK, s.get(t, api.LivePath).StatusCode)
}

// A manager without a backend answers every call with what is wrong.
func TestManagerWithoutBackend(t *testing.T) {
	handler := web.NewHandler(enhanced.NewEnhancedLockManager(nil, nil, nil), web.Options{})
	s := &server{Server: newTestServer(t, handler)}
	for _, path := range []string{api.LocksPath, api.LocksPath + "/x", api.LookupPath + "?repository=r&path=p&workspace=w", api.StatsPath} {
		require.Contains(t, problem(t, s.get(t, path), http.StatusUnprocessableEntity, "INVALID_REQUEST").Detail, "backend is nil")
	}
	problem(t, s.post(t, api.LocksPath, freezeProd), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	problem(t, s.get(t, api.ReadyPath), http.StatusServiceUnavailable, "INVALID_REQUEST")
}

func TestStatsAndHealth(t *testing.T) {
	s := startServer(t, nil)
	require.Equal(t, api.Health{Status: "ok"}, decode[api.Health](t, s.get(t, api.LivePath), http.StatusOK))
	require.Equal(t, api.Health{Status: "ok"}, decode[api.Health](t, s.get(t, api.ReadyPath), http.StatusOK))

	decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	problem(t, s.post(t, api.LocksPath, lockByAlice), http.StatusConflict, "LOCK_EXISTS")
	decode[api.Lock](t, s.post(t, api.LocksPath, `{"repository":"r","path":"p","workspace":"w","owner":{"user":"a"}}`), http.StatusCreated)
	decode[api.Unlocked](t, s.post(t, api.UnlockPath, lockByAlice), http.StatusOK)
	stats := decode[api.Stats](t, s.get(t, api.StatsPath), http.StatusOK)
	require.Positive(t, stats.AverageWaitSeconds)
	require.Positive(t, stats.AverageHoldSeconds)
	stats.AverageWaitSeconds, stats.AverageHoldSeconds = 0, 0
	require.Equal(t, api.Stats{
		ActiveLocks: 1, UnreadableRecords: []string{}, TotalRequests: 3, SuccessfulAcquires: 2,
		Refused: 1, Releases: 1, HealthScore: 100,
	}, stats)
}
