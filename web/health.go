package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerHealth() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "live",
		Summary:     "Say that the process is alive",
		Method:      http.MethodGet,
		Path:        api.LivePath,
	}, func(context.Context, *struct{}) (*body[api.Health], error) {
		return &body[api.Health]{api.Health{Status: "ok"}}, nil
	})
	register(s, operationTimeout, huma.Operation{
		OperationID: "ready",
		Summary:     "Say whether locks can be taken",
		Method:      http.MethodGet,
		Path:        api.ReadyPath,
		Errors:      []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*body[api.Health], error) {
		if err := s.manager.GetHealth(ctx); err != nil {
			// Whatever is wrong, whoever sends requests here is to stop for now.
			p := s.problem(err)
			p.Status, p.Title = http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable)
			return nil, p
		}
		return &body[api.Health]{api.Health{Status: "ok"}}, nil
	})
}
