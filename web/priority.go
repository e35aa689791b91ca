package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerPriority() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "explain-priority",
		Summary:     "Explain the priority of a request",
		Description: "What the server's rules give to a request that names no priority, and whether it uses the queue.",
		Method:      http.MethodGet,
		Path:        api.PriorityPath,
		Errors:      []int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.explainPriority)
}

type priorityInput struct {
	Repository string `query:"repository" required:"true" example:"acme/infra"`
	Path       string `query:"path" required:"true" example:"envs/prod"`
	Workspace  string `query:"workspace" required:"true" example:"default"`
	Project    string `query:"project" doc:"The project's name, if it has one."`
	User       string `query:"user" doc:"Who asks; for a pull request who runs the plan." example:"alice"`
}

func (s *server) explainPriority(_ context.Context, input *priorityInput) (*body[api.Priority], error) {
	resource := resourceFrom(input.Repository, input.Path, input.Workspace, input.Project)
	explained, err := s.manager.ExplainPriority(resource, input.User)
	if err != nil {
		return nil, err
	}
	return &body[api.Priority]{api.Priority{
		Priority: explained.Priority.String(), Rule: explained.Rule, Queued: explained.Queued,
	}}, nil
}

// priorityFrom returns the priority that a request names, or else the one that
// the rules give.
func (s *server) priorityFrom(r api.AcquireRequest, owner enhanced.Owner) (enhanced.Priority, error) {
	if r.Priority != "" {
		return enhanced.ParsePriority(r.Priority)
	}
	explained, err := s.manager.ExplainPriority(resourceFrom(r.Repository, r.Path, r.Workspace, r.ProjectName), owner.Name)
	return explained.Priority, err
}
