package web

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerUnlock() {
	register(s, operationTimeout, huma.Operation{
		OperationID:  "unlock",
		Summary:      "Release a lock",
		Description:  "An owner releases its own lock. Force releases anybody's, is logged with its actor and reason, and answers whose lock it was. A lock that is named by its ID and was released before is released: its acquired_at is 0001-01-01T00:00:00Z then.",
		Method:       http.MethodPost,
		Path:         api.UnlockPath,
		MaxBodyBytes: maxBody,
		Errors: []int{
			http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusGone,
			http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		},
	}, s.unlock)
}

type unlockInput struct {
	Body api.UnlockRequest
}

func (s *server) unlock(ctx context.Context, input *unlockInput) (*body[api.Unlocked], error) {
	request, err := s.releaseFrom(ctx, input.Body)
	if err != nil {
		return nil, err
	}
	lock, err := s.manager.Release(ctx, request)
	if err != nil {
		return nil, err
	}
	return &body[api.Unlocked]{api.Unlocked{Lock: lockView(lock), Forced: request.Force}}, nil
}

// releaseFrom returns what the manager is asked for.
func (s *server) releaseFrom(ctx context.Context, r api.UnlockRequest) (enhanced.ReleaseRequest, error) {
	request := enhanced.ReleaseRequest{LockID: r.ID, Force: r.Force, Reason: r.Reason}
	if r.Repository != "" || r.Path != "" || r.Workspace != "" || r.ProjectName != "" {
		if r.Repository == "" || r.Path == "" || r.Workspace == "" {
			return request, enhanced.NewInvalidError("a project is named by repository, path and workspace; one of them is empty")
		}
		request.Resource = resourceFrom(r.Repository, r.Path, r.Workspace, r.ProjectName)
	} else if r.ID == "" {
		return request, enhanced.NewInvalidError("name the lock: give id, or repository, path and workspace")
	}
	switch {
	case r.Force && r.Owner != nil:
		return request, enhanced.NewInvalidError("owner and force exclude each other: force releases whoever holds the lock")
	case r.Force && strings.TrimSpace(r.Actor) == "":
		return request, enhanced.NewInvalidError("force needs actor: the user who overrides the owner")
	case r.Force && strings.TrimSpace(r.Reason) == "":
		return request, enhanced.NewInvalidError("force needs reason: why the owner is overridden")
	case r.Force:
		request.Actor = enhanced.UserOwner(r.Actor).String()
		return request, nil
	case r.Actor != "":
		return request, enhanced.NewInvalidError("actor is for force; the owner acts otherwise")
	case r.Owner == nil:
		return request, enhanced.NewInvalidError("name the owner, or use force with actor and reason")
	}
	repository := r.Repository
	if repository == "" {
		// A pull request is an owner within its repository, which the ID stands for.
		lock, err := s.get(ctx, &getInput{ID: r.ID})
		var gone *enhanced.LockError
		switch {
		case err == nil:
			repository = lock.Body.Repository
		case errors.As(err, &gone) && errors.Is(err, enhanced.ErrLockNotFound) && gone.Resource.Namespace != "":
			repository = gone.Resource.Namespace // it was released before
		default:
			return request, err
		}
	}
	owner, err := ownerFrom(*r.Owner, repository)
	if err != nil {
		return request, err
	}
	request.Owner = owner.String()
	return request, nil
}
