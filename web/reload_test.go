package web_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/stretchr/testify/require"
)

func TestReload(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	manager := enhanced.NewEnhancedLockManager(s.backend, nil, nil)
	done := api.Reload{
		Changed:      []api.OptionChange{{Key: "retry.max-attempts", From: "3", To: "5"}},
		NeedsRestart: []api.OptionChange{},
	}
	var failure error
	server := newTestServer(t, web.NewHandler(manager, web.Options{Reload: func(context.Context) (api.Reload, error) { return done, failure }}))
	c, err := client.New(server.URL)
	require.NoError(t, err)
	got, err := c.Reload(t.Context())
	require.NoError(t, err)
	require.Equal(t, done, got)

	// What is wrong with a file is told; what is wrong with the server is not.
	failure = enhanced.NewInvalidError("f.yaml:3: retry.max-attempts: -1 is negative")
	_, err = c.Reload(t.Context())
	var problem *api.Problem
	require.ErrorAs(t, err, &problem)
	require.Equal(t, http.StatusUnprocessableEntity, problem.Status)
	require.Contains(t, problem.Detail, "f.yaml:3: retry.max-attempts: -1 is negative")
	failure = errors.New("hunter2")
	_, err = c.Reload(t.Context())
	require.ErrorAs(t, err, &problem)
	require.Equal(t, http.StatusInternalServerError, problem.Status)
	require.NotContains(t, problem.Detail, "hunter2")

	// Another site can't ask for it, and a handler without it has no such address.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+api.ReloadPath, nil)
	require.NoError(t, err)
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusForbidden, answer.StatusCode)
	c, err = client.New(s.URL)
	require.NoError(t, err)
	_, err = c.Reload(t.Context())
	require.ErrorAs(t, err, &problem)
	require.Equal(t, http.StatusNotFound, problem.Status)
}
