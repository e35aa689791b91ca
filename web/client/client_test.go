package client_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// newClient returns a client of a server with a store of its own, mounted below
// a path.
func newClient(t *testing.T) *client.Client {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	backend, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	handler := web.NewHandler(enhanced.NewEnhancedLockManager(backend, nil, nil), web.Options{})
	return clientOf(t, http.StripPrefix("/mounted", handler), "/mounted")
}

func clientOf(t *testing.T, handler http.Handler, path string) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL + path)
	require.NoError(t, err)
	return c
}

func TestClient(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	request := api.AcquireRequest{
		Repository: "acme/infra", Path: "a b/%2F+?#", Workspace: "w&x=y", ProjectName: "日本",
		Owner: api.Owner{User: "alice"}, Note: "frozen",
	}
	lock, err := c.Acquire(ctx, request)
	require.NoError(t, err)
	require.Equal(t, "frozen", lock.Note)
	require.Nil(t, lock.ExpiresAt)

	got, err := c.Get(ctx, lock.ID)
	require.NoError(t, err)
	require.Equal(t, lock, got)
	got, err = c.Lookup(ctx, api.Resource{Repository: "acme/infra", Path: "a b/%2F+?#", Workspace: "w&x=y", ProjectName: "日本"})
	require.NoError(t, err)
	require.Equal(t, lock, got)
	for want, filter := range map[int]api.Filter{1: {Repository: "acme/infra", OwnerID: "user:alice"}, 0: {Repository: "acme"}} {
		list, err := c.List(ctx, filter)
		require.NoError(t, err)
		require.Len(t, list.Locks, want)
	}

	_, err = c.Acquire(ctx, request)
	problem := new(api.Problem)
	require.ErrorAs(t, err, &problem)
	require.Equal(t, enhanced.ErrCodeLockExists, problem.Code)
	require.Equal(t, http.StatusConflict, problem.Status)
	require.Equal(t, &lock, problem.Holder)

	answer, err := c.Unlock(ctx, api.UnlockRequest{ID: lock.ID, Owner: &api.Owner{User: "alice"}})
	require.NoError(t, err)
	require.Equal(t, lock.ID, answer.Lock.ID)
	stats, err := c.Stats(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, stats.Releases)
	report, err := c.Import(ctx, api.ImportRequest{Records: []api.ImportRecord{{
		Key: "k", Lock: models.ProjectLock{Project: models.Project{RepoFullName: "acme/infra", Path: "."}, Workspace: "w"},
	}}})
	require.NoError(t, err)
	require.Equal(t, api.OutcomeTaken, report.Results[0].Outcome)
}

// An ID is one segment of the path, whatever is in it.
func TestGetOddIDs(t *testing.T) {
	c := newClient(t)
	for _, id := range []string{".", "..", "../stats", "a/b", "%2e%2e", "a b", "?x=y", "#", "\x00", "é", "\xff"} {
		_, err := c.Get(t.Context(), id)
		problem := new(api.Problem)
		require.ErrorAs(t, err, &problem, "%q", id)
		require.Equal(t, enhanced.ErrCodeLockNotFound, problem.Code, "%q", id)
		require.Contains(t, problem.Detail, fmt.Sprintf("%q", id))
	}
}

func TestNew(t *testing.T) {
	for address, says := range map[string]string{
		"":                          "no http or https address",
		"localhost:4142":            "no http or https address",
		"ftp://localhost":           "no http or https address",
		"http://":                   "no http or https address",
		"http://a\x7f":              "is no URL",
		"http://u:hunter2@h":        "more than a scheme, a host and a path",
		"http://u:hunter2@h:x":      "is no URL",
		"ftp://u:hunter2@h":         "no http or https address",
		"http://localhost/?a=b":     "more than",
		"http://localhost/#a":       "more than",
		"http://localhost:4142":     "",
		"https://locks.example/x":   "",
		"http://[::1]:4142/":        "",
		"HTTP://LOCALHOST:4142/a/b": "",
	} {
		_, err := client.New(address)
		if says == "" {
			require.NoError(t, err, address)
			continue
		}
		require.ErrorContains(t, err, says, address)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// Whether a request can have had an effect is told from where it failed.
func TestUnreachable(t *testing.T) {
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	nobody, err := client.New("http://" + closed.Addr().String())
	require.NoError(t, err)
	silent := clientOf(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "")
	broken := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeAs(w, "application/json", http.StatusOK, `{"id":`)
	}), "")
	for name, c := range map[string]struct {
		client    *client.Client
		connected bool
	}{"nobody": {nobody, false}, "silent": {silent, true}, "broken": {broken, true}} {
		t.Run(name, func(t *testing.T) {
			unreachable := new(client.UnreachableError)
			_, err := c.client.Stats(t.Context())
			require.ErrorAs(t, err, &unreachable)
			require.Equal(t, c.connected, unreachable.Connected)
			require.False(t, unreachable.OutcomeUnknown, "reading changes nothing")
			require.Contains(t, err.Error(), c.client.Server())

			_, err = c.client.Acquire(t.Context(), api.AcquireRequest{})
			require.ErrorAs(t, err, &unreachable)
			require.Equal(t, c.connected, unreachable.OutcomeUnknown)
		})
	}
}

// What is not of the API is no answer of it, success or not.
func TestStranger(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"page":     func(w http.ResponseWriter, _ *http.Request) { writeAs(w, "text/html", http.StatusOK, "<html>") },
		"error":    func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
		"JSON":     func(w http.ResponseWriter, _ *http.Request) { writeAs(w, "application/json", 500, `{"error":"x"}`) },
		"problem":  func(w http.ResponseWriter, _ *http.Request) { writeAs(w, api.ProblemContentType, 500, `{"title":"x"}`) },
		"cut off":  func(w http.ResponseWriter, _ *http.Request) { writeAs(w, api.ProblemContentType, 500, `{"code":"x`) },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusTemporaryRedirect) },
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOf(t, handler, "")
			_, err := c.Unlock(t.Context(), api.UnlockRequest{})
			require.ErrorContains(t, err, "not as atlantis-locks does")
		})
	}
}

func writeAs(w http.ResponseWriter, contentType string, status int, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // the client has gone
}

// A call ends with its context, whatever the server does.
func TestContextEnds(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		_, _ = bufio.NewReader(connection).ReadString('\n') // the request is here
		cancel()
		<-t.Context().Done()
	}()
	c, err := client.New("http://" + listener.Addr().String())
	require.NoError(t, err)
	_, err = c.Acquire(ctx, api.AcquireRequest{})
	require.ErrorIs(t, err, context.Canceled)
	unreachable := new(client.UnreachableError)
	require.ErrorAs(t, err, &unreachable)
	require.True(t, unreachable.OutcomeUnknown)
}
