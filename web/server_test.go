package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a running API on a store of its own.
type server struct {
	*httptest.Server
	backend enhanced.Backend
}

// startServer serves the API on a new bbolt file. wrap, if not nil, replaces
// the backend by one that it makes from it.
func startServer(t *testing.T, wrap func(enhanced.Backend) enhanced.Backend, opts ...enhanced.ManagerOption) *server {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	bolt, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bolt.Close()) })
	var backend enhanced.Backend = bolt
	if wrap != nil {
		backend = wrap(bolt)
	}
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil, opts...)
	return &server{
		backend: backend,
		Server:  newTestServer(t, web.NewHandler(manager, web.Options{LoopbackOnly: true})),
	}
}

func newTestServer(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// reply is what came back, read whole.
type reply struct {
	*http.Response
	body []byte
}

// send makes one request. edit, if not nil, changes it first.
func (s *server) send(t *testing.T, method, path, body string, edit func(*http.Request)) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	if edit != nil {
		edit(request)
	}
	response, err := s.Client().Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return reply{Response: response, body: content}
}

func (s *server) get(t *testing.T, path string) reply {
	t.Helper()
	return s.send(t, http.MethodGet, path, "", nil)
}

func (s *server) post(t *testing.T, path, body string) reply {
	t.Helper()
	return s.send(t, http.MethodPost, path, body, nil)
}

// decode reads an answer of type T that has the status.
func decode[T any](t *testing.T, r reply, status int) T {
	t.Helper()
	var value T
	require.Equal(t, status, r.StatusCode, "%s", r.body)
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&value), "%s", r.body)
	return value
}

// problem reads an error, which has the status and the code.
func problem(t *testing.T, r reply, status int, code string) api.Problem {
	t.Helper()
	require.Equal(t, api.ProblemContentType, r.Header.Get("Content-Type"), "%s", r.body)
	p := decode[api.Problem](t, r, status)
	require.Equal(t, code, p.Code, "%s", r.body)
	require.Equal(t, status, p.Status)
	require.Equal(t, http.StatusText(status), p.Title)
	require.NotEmpty(t, p.Detail)
	return p
}

// lockCount is the number of locks in the store.
func (s *server) lockCount(t *testing.T) int {
	t.Helper()
	locks, err := s.backend.ListLocks(t.Context())
	require.NoError(t, err)
	return len(locks)
}

// failing is a backend whose calls fail with err.
type failing struct {
	enhanced.Backend
	err error
}

func (f failing) AcquireLock(context.Context, *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	return nil, f.err
}

func (f failing) TryAcquireLock(context.Context, *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	return nil, false, f.err
}

func (f failing) ListLocks(context.Context) ([]*enhanced.EnhancedLock, error) { return nil, f.err }

func (f failing) HealthCheck(context.Context) error { return f.err }

func (f failing) GetStats(context.Context) (*enhanced.BackendStats, error) {
	return &enhanced.BackendStats{}, f.err
}

// failWith makes a wrap for startServer.
func failWith(err error) func(enhanced.Backend) enhanced.Backend {
	return func(b enhanced.Backend) enhanced.Backend { return failing{Backend: b, err: err} }
}
