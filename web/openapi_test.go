package web_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

// document is the part of an OpenAPI document that tests look at.
type document struct {
	OpenAPI string `json:"openapi"`
	Info    struct{ Title, Version string }
	Paths   map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Responses   map[string]struct {
			Content map[string]struct{ Schema map[string]any }
		}
	}
	Components struct{ Schemas map[string]any }
}

func TestOpenAPI(t *testing.T) {
	s := startServer(t, nil)
	r := s.get(t, api.OpenAPIPath)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "application/openapi+json", r.Header.Get("Content-Type"))
	var d document
	require.NoError(t, json.Unmarshal(r.body, &d))
	require.Equal(t, "3.1.0", d.OpenAPI)
	require.NotEmpty(t, d.Info.Title)
	require.NotEmpty(t, d.Info.Version)

	var routes []string
	ids := map[string]bool{}
	for path, operations := range d.Paths {
		for method, operation := range operations {
			routes = append(routes, strings.ToUpper(method)+" "+path)
			require.NotEmpty(t, operation.OperationID)
			require.False(t, ids[operation.OperationID], "operation ID %s is used twice", operation.OperationID)
			ids[operation.OperationID] = true
			for status, response := range operation.Responses {
				if status[0] == '2' {
					continue
				}
				require.Equal(t, "#/components/schemas/Problem", response.Content[api.ProblemContentType].Schema["$ref"], "%s %s", path, status)
			}
		}
	}
	slices.Sort(routes)
	require.Equal(t, []string{
		"GET /api/v1/deadlocks",
		"GET /api/v1/lock",
		"GET /api/v1/locks",
		"GET /api/v1/locks/{id}",
		"GET /api/v1/log",
		"GET /api/v1/mode",
		"GET /api/v1/priority",
		"GET /api/v1/queue",
		"GET /api/v1/queue/position",
		"GET /api/v1/repositories",
		"GET /api/v1/stats",
		"GET /healthz",
		"GET /readyz",
		"POST /api/v1/compatibility",
		"POST /api/v1/import",
		"POST /api/v1/lock-all",
		"POST /api/v1/locks",
		"POST /api/v1/mode/forget",
		"POST /api/v1/queue/cancel",
		"POST /api/v1/queue/move",
		"POST /api/v1/refresh",
		"POST /api/v1/repair",
		"POST /api/v1/replace-locks",
		"POST /api/v1/unlock",
		"POST /api/v1/verify",
		"POST /api/v1/wait",
		"POST /api/v1/wait-all",
		"PUT /api/v1/mode",
	}, routes)

	// Every reference leads somewhere, and nothing is left over from huma.
	for _, match := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllSubmatch(r.body, -1) {
		require.Contains(t, d.Components.Schemas, string(match[1]))
	}
	for name := range d.Components.Schemas {
		require.NotContains(t, name, "Error")
	}
	require.NotContains(t, string(r.body), "$schema")
}

// The document is made before the first request asks for it.
func TestOpenAPIConcurrently(t *testing.T) {
	s := startServer(t, nil)
	want := string(s.get(t, api.OpenAPIPath).body)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := string(s.get(t, api.OpenAPIPath).body); got != want {
				t.Errorf("got another document")
			}
		})
	}
	wg.Wait()
}
