package enhanced

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// authorizeTimeout is how long an Authorizer may take; longer means no.
const authorizeTimeout = 2 * time.Second

// Actions that an [Authorizer] is asked about.
const (
	ActionAcquire      = "acquire"
	ActionRelease      = "release"
	ActionForceRelease = "force_release"
	ActionReleasePull  = "release_pull"
	// ActionCancelRequest takes a waiter out of its queue, ActionMoveRequest puts
	// one before all others. The owner is the one that waits.
	ActionCancelRequest = "cancel_request"
	ActionMoveRequest   = "move_request"
	// ActionMode sets the mode of all adapters, or removes one of them.
	ActionMode = "mode"
)

// AuthorizationRequest is what an [Authorizer] decides on.
type AuthorizationRequest struct {
	// Action is one of the Action constants.
	Action string
	// Resource is what the action is about; for ActionReleasePull only its
	// Namespace is set, and for a release by lock ID nothing.
	Resource ResourceIdentifier
	LockID   string
	// Actor is who acts, in an owner's text form.
	Actor string
	// Owner is the owner that acquires, whose lock is to be released, or that
	// waits.
	Owner  string
	Reason string
}

// Authorizer decides whether an action may go on: nil means yes. It must be
// safe for concurrent use and honour its context, which ends after 2 seconds.
type Authorizer func(ctx context.Context, request AuthorizationRequest) error

// WithAuthorizer makes the manager ask authorizer before each acquire, release
// and change of a queue. An error, a panic or no answer within 2 seconds denies the action
// with PERMISSION_DENIED. Without this option the manager allows everything
// that the lock rules allow.
func WithAuthorizer(authorizer Authorizer) ManagerOption {
	return func(o *managerOptions) { o.authorize = authorizer }
}

func acquireAuthorization(r *EnhancedLockRequest) AuthorizationRequest {
	owner := r.Owner().String()
	return AuthorizationRequest{Action: ActionAcquire, Resource: r.Resource, Actor: owner, Owner: owner}
}

func releaseAuthorization(r ReleaseRequest) AuthorizationRequest {
	action := ActionRelease
	if r.Force {
		action = ActionForceRelease
	}
	owner := r.Owner
	if owner == "" && r.PullNumber != nil {
		// The host is unknown to Atlantis' own call.
		owner = PullOwner("", r.Resource.Namespace, *r.PullNumber).String()
	}
	// What is decided on is what the backend acts on: one resource has one
	// spelling.
	resource := r.Resource
	if resource != (ResourceIdentifier{}) {
		resource = resource.Normalized()
	}
	return AuthorizationRequest{
		Action: action, Resource: resource, LockID: r.LockID,
		Actor: cmp.Or(r.Actor, owner), Owner: owner, Reason: r.Reason,
	}
}

func releasePullAuthorization(repository string, number int, actor string) AuthorizationRequest {
	return AuthorizationRequest{
		Action:   ActionReleasePull,
		Resource: ResourceIdentifier{Namespace: repository},
		Actor:    actor,
		// The host is unknown to Atlantis' own call.
		Owner: PullOwner("", repository, number).String(),
	}
}

func (m *EnhancedLockManager) authorize(ctx context.Context, request AuthorizationRequest) error {
	if !m.asks() {
		return nil
	}
	return m.ask(ctx, m.options.authorize, request)
}

// asks reports whether there is an authorizer. To say what it is asked takes a while.
func (m *EnhancedLockManager) asks() bool { return m.options.authorize != nil }

func (m *EnhancedLockManager) ask(ctx context.Context, authorizer Authorizer, request AuthorizationRequest) error {
	ctx, cancel := context.WithTimeout(ctx, authorizeTimeout)
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		// The answer stays a refusal unless the authorizer returns.
		err := fmt.Errorf("authorizer panicked")
		defer func() {
			if r := recover(); r != nil {
				m.logger.Err("authorizer panicked on %s: %v", request.Action, r)
			}
			answer <- err
		}()
		err = authorizer(ctx, request)
	}()
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = fmt.Errorf("no answer from the authorizer: %w", ctx.Err())
	}
	if err == nil {
		return nil
	}
	return &LockError{
		Code:     ErrCodePermissionDenied,
		Message:  fmt.Sprintf("%s may not %s %s", DescribeOwner(request.Actor), request.Action, request.target()),
		Resource: request.Resource,
		Err:      err,
	}
}

func (r AuthorizationRequest) target() string {
	switch {
	case r.LockID != "":
		return r.LockID
	case r.Action == ActionReleasePull:
		return r.Owner
	case r.Action == ActionRepair:
		return "the store"
	case r.Action == ActionMode:
		return "of all adapters"
	default:
		return r.Resource.String()
	}
}
