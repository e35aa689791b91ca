package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerQueuePlaces() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "queue-position",
		Summary:     "Get the place of an owner in a queue, and what those in it wait for",
		Description: "Give either user, or pull and host.",
		Method:      http.MethodGet,
		Path:        api.PositionPath,
		Errors:      []int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.position)
	register(s, operationTimeout, huma.Operation{
		OperationID:  "move-request",
		Summary:      "Put a request before all others in its queue",
		Description:  "It overrides the order, so it is logged with its actor and reason.",
		Method:       http.MethodPost,
		Path:         api.MovePath,
		MaxBodyBytes: maxBody,
		Errors: []int{
			http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusRequestEntityTooLarge,
			http.StatusUnsupportedMediaType, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		},
	}, s.moveRequest)
}

type positionInput struct {
	Repository string `query:"repository" required:"true" example:"acme/infra"`
	Path       string `query:"path" required:"true" example:"envs/prod"`
	Workspace  string `query:"workspace" required:"true" example:"default"`
	Project    string `query:"project" doc:"The project's name, if it has one."`

	User string `query:"user" doc:"The user who waits." example:"alice"`
	Pull int    `query:"pull" minimum:"1" doc:"The pull request that waits. Needs host."`
	Host string `query:"host" doc:"The host name of the pull request's VCS." example:"github.com"`
}

func (s *server) position(ctx context.Context, input *positionInput) (*body[api.Position], error) {
	owner, err := ownerFrom(api.Owner{User: input.User, Pull: input.Pull, Host: input.Host}, input.Repository)
	if err != nil {
		return nil, err
	}
	resource := resourceFrom(input.Repository, input.Path, input.Workspace, input.Project)
	place, err := s.manager.FindPlace(ctx, resource.Project(), resource.Workspace, owner)
	if err != nil {
		return nil, err
	}
	return &body[api.Position]{api.Position{
		OwnerID: owner.String(), Place: place.Number, Length: place.Length, Blocker: blockerView(place.Blocker),
	}}, nil
}

func blockerView(b *enhanced.Blocker) *api.Blocker {
	if b == nil {
		return nil
	}
	view := &api.Blocker{Kind: b.Kind, Owner: ownerView(b.Owner), OwnerID: b.Owner, Note: b.Note}
	if b.Until != nil {
		until := b.Until.UTC()
		view.Until = &until
	}
	return view
}

type moveInput struct {
	Body api.MoveRequest
}

func (s *server) moveRequest(ctx context.Context, input *moveInput) (*body[api.Moved], error) {
	r := input.Body
	owner, err := ownerFrom(r.Owner, r.Repository)
	if err != nil {
		return nil, err
	}
	resource := resourceFrom(r.Repository, r.Path, r.Workspace, r.ProjectName)
	actor := enhanced.UserOwner(r.Actor).String()
	if err := s.manager.MoveRequest(ctx, resource, owner.String(), actor, r.Reason); err != nil {
		return nil, err
	}
	return &body[api.Moved]{api.Moved{OwnerID: owner.String()}}, nil
}
