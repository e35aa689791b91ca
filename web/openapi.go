package web

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

const openAPIPath = api.OpenAPIPath

// apiVersion is the version of the API's description.
const apiVersion = "1.0.0"

const (
	// maxBody bounds the body of every request but an import.
	maxBody = 1 << 20
	// operationTimeout bounds every operation but an import.
	operationTimeout = 10 * time.Second
)

// apiConfig returns huma's configuration. It leaves out huma's page of
// documentation, which loads its scripts from elsewhere, and huma's own
// handler of the document, which makes it at the first request without a lock.
func apiConfig() huma.Config {
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "Atlantis locks",
				Version:     apiVersion,
				Description: "Locks on Terraform projects for Atlantis, people and programs.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			},
		},
		Formats: map[string]huma.Format{
			"application/json": {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decodeJSON},
			"json":             {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decodeJSON},
		},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{transformError},
	}
	// Errors that huma makes itself are sent, and described, as ours.
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[api.Problem]())
	return config
}

// openAPIHandler serves the document of an API whose operations are complete.
func openAPIHandler(a huma.API) http.Handler {
	document, err := json.Marshal(a.OpenAPI())
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err != nil {
			writeProblem(w, newProblem(http.StatusInternalServerError, "the API's description can't be made"))
			return
		}
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(document) // the client has gone
	})
}

// register adds an operation. Its context ends after limit; its errors are
// answered as problems.
func register[I, O any](s *server, limit time.Duration, operation huma.Operation, handle func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, operation, func(ctx context.Context, input *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		output, err := handle(ctx, input)
		if err != nil {
			return nil, s.problem(err)
		}
		return output, nil
	})
}

// body is an answer that is all body.
type body[T any] struct {
	Body T
}

// store returns the backend, or what is wrong with a manager that has none.
func (s *server) store(ctx context.Context) (enhanced.Backend, error) {
	if backend := s.manager.GetBackend(); backend != nil {
		return backend, nil
	}
	return nil, s.manager.GetHealth(ctx)
}
