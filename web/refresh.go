package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerRefresh() {
	register(s, operationTimeout, huma.Operation{
		OperationID:  "refresh-lock",
		Summary:      "Renew the lease of a lock",
		Description:  "The lease ends as long from now as is asked for. A lock that is gone does not come back. Count from when the request was sent, not from the answer.",
		Method:       http.MethodPost,
		Path:         api.RefreshPath,
		MaxBodyBytes: maxBody,
		Errors: []int{
			http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusGone,
			http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		},
	}, s.refresh)
}

type refreshInput struct {
	Body api.RefreshRequest
}

func (s *server) refresh(ctx context.Context, input *refreshInput) (*body[api.Refreshed], error) {
	r := input.Body
	lease, err := time.ParseDuration(r.Timeout)
	if err != nil || lease < time.Millisecond {
		return nil, enhanced.NewInvalidError("timeout %q is no lease: give a positive duration such as \"1m\"", r.Timeout)
	}
	if err := s.checkOwner(ctx, r); err != nil {
		return nil, err
	}
	if err := s.manager.RefreshLock(ctx, r.ID, lease); err != nil {
		return nil, err
	}
	return &body[api.Refreshed]{api.Refreshed{ID: r.ID}}, nil
}

// checkOwner refuses who does not own the lock. An ID addresses one grant, which
// has one owner, so this can't change before the lease is renewed. What there is
// to say of a lock that is gone, the renewal says.
func (s *server) checkOwner(ctx context.Context, r api.RefreshRequest) error {
	store, err := s.store(ctx)
	if err != nil {
		return err
	}
	lock, err := store.GetLock(ctx, r.ID)
	if errors.Is(err, enhanced.ErrLockNotFound) || errors.Is(err, enhanced.ErrLockExpired) {
		return nil
	}
	if err != nil {
		return err
	}
	owner, err := ownerFrom(r.Owner, lock.Resource.Namespace)
	if err != nil {
		return err
	}
	if owner.String() != lock.Owner {
		return enhanced.NewDeniedError(lock.Resource, lock, owner.String())
	}
	return nil
}
