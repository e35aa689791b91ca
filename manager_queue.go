package enhanced

import (
	"context"
	"slices"
	"strings"

	"github.com/runatlantis/atlantis/server/events/models"
)

// RequestMover is a backend whose waiters can be moved.
type RequestMover interface {
	// MoveRequest puts the requests of an owner, in text form, for a resource
	// before all others that wait for it, those that were moved earlier included;
	// several keep their order among each other. LOCK_NOT_FOUND if none waits. The actor, who
	// does it, and the reason are for the log, which calls it forced.
	MoveRequest(ctx context.Context, resource ResourceIdentifier, owner, actor, reason string) error
}

// GetQueuePosition returns the place, from 1, of the owner that the context
// names (see [ContextWithOwner]), 0 if it does not wait. Without an owner it
// returns the length of the resource's queue. [EnhancedLockManager.FindPlace] also
// says what those who wait there wait for.
func (m *EnhancedLockManager) GetQueuePosition(ctx context.Context, project models.Project, workspace string) (int, error) {
	if owner, named := OwnerFromContext(ctx); named {
		return m.GetQueuePositionOf(ctx, project, workspace, owner)
	}
	waiters, err := m.waiters(ctx, ProjectResource(project, workspace))
	return len(waiters), err
}

// CancelQueuedRequest takes the user's requests for a project out of the queue:
// their calls answer LOCK_EXPIRED. LOCK_NOT_FOUND if the user does not wait.
func (m *EnhancedLockManager) CancelQueuedRequest(ctx context.Context, project models.Project, workspace string, user models.User) error {
	if _, err := m.ready(ctx); err != nil {
		return err
	}
	if user.Username == "" {
		return NewInvalidError("user is empty; requests are cancelled for their owner")
	}
	owner := UserOwner(user.Username).String()
	return m.CancelRequest(ctx, ProjectResource(project, workspace), owner, owner)
}

func (m *EnhancedLockManager) waiters(ctx context.Context, resource ResourceIdentifier) ([]*EnhancedLockRequest, error) {
	if _, err := m.ready(ctx); err != nil {
		return nil, err
	}
	if err := resource.Validate(); err != nil {
		return nil, err
	}
	status, err := repeated(ctx, &m.repeat, mayPass, m.backend.GetQueueStatus)
	if err != nil {
		return nil, err
	}
	var waiters []*EnhancedLockRequest
	for _, request := range status.PendingRequests {
		if request.Resource == resource {
			waiters = append(waiters, request)
		}
	}
	return waiters, nil
}

// GetQueuePositionOf returns the place, from 1, of an owner in the queue of a
// project, 0 if it does not wait.
func (m *EnhancedLockManager) GetQueuePositionOf(ctx context.Context, project models.Project, workspace string, owner Owner) (int, error) {
	waiters, err := m.waiters(ctx, ProjectResource(project, workspace))
	if err != nil {
		return 0, err
	}
	return 1 + slices.IndexFunc(waiters, func(r *EnhancedLockRequest) bool { return r.Owner() == owner }), nil
}

// CancelRequest is [Backend.CancelRequest] with authorization. Events come from
// the store's log, as subscribers see them.
func (m *EnhancedLockManager) CancelRequest(ctx context.Context, resource ResourceIdentifier, owner, actor string) error {
	if err := m.checkQueueChange(ctx, ActionCancelRequest, &resource, owner, actor, ""); err != nil {
		return err
	}
	return m.repeat.do(ctx, mayPassUndone, func(ctx context.Context) error {
		return m.backend.CancelRequest(ctx, resource, owner, actor)
	})
}

// MoveRequest is [RequestMover] with authorization. It overrides the order in
// which others wait, so it needs an actor and a reason. INVALID_REQUEST if the
// backend can't move waiters.
func (m *EnhancedLockManager) MoveRequest(ctx context.Context, resource ResourceIdentifier, owner, actor, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return NewInvalidError("reason is empty; say why others are to wait longer")
	}
	if err := m.checkQueueChange(ctx, ActionMoveRequest, &resource, owner, actor, reason); err != nil {
		return err
	}
	mover, ok := m.backend.(RequestMover)
	if !ok {
		return NewInvalidError("the backend %T can't move requests", m.backend)
	}
	return mover.MoveRequest(ctx, resource, owner, actor, reason)
}

// checkQueueChange checks who changes a queue, and asks the Authorizer. It
// normalizes the resource.
func (m *EnhancedLockManager) checkQueueChange(ctx context.Context, action string, resource *ResourceIdentifier, owner, actor, reason string) error {
	if _, err := m.ready(ctx); err != nil {
		return err
	}
	*resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return err
	}
	if _, err := ParseOwner(owner); err != nil {
		return err
	}
	if actor == "" {
		return NewInvalidError("actor is empty; the log says who changed a queue")
	}
	if err := validateText("actor", actor); err != nil {
		return err
	}
	if err := ValidateReason(reason); err != nil {
		return err
	}
	return m.authorize(ctx, AuthorizationRequest{
		Action: action, Resource: *resource, Actor: actor, Owner: owner, Reason: reason,
	})
}
