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

// waitLimit bounds a call that waits for a lock. The queue's own limit,
// QueueTimeout, is meant to come first.
const waitLimit = 24 * time.Hour

func (s *server) registerQueue() {
	register(s, waitLimit, huma.Operation{
		OperationID: "wait-for-lock",
		Summary:     "Lock a project, and wait for that in its queue",
		Description: "The call ends when it has the lock, when the queue's time limit is over, or when its connection does: then the request leaves the queue. " +
			"Without a queue it is the same as locking.",
		Method:        http.MethodPost,
		Path:          api.WaitPath,
		DefaultStatus: http.StatusCreated,
		MaxBodyBytes:  maxBody,
		Errors:        acquireErrors(),
	}, s.wait)
	register(s, operationTimeout, huma.Operation{
		OperationID: "list-queue",
		Summary:     "List what waits",
		Method:      http.MethodGet,
		Path:        api.QueuePath,
		Errors:      []int{http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.listQueue)
	register(s, operationTimeout, huma.Operation{
		OperationID:  "cancel-request",
		Summary:      "Take a request out of the queue",
		Method:       http.MethodPost,
		Path:         api.CancelPath,
		MaxBodyBytes: maxBody,
		Errors: []int{
			http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusRequestEntityTooLarge,
			http.StatusUnsupportedMediaType, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		},
	}, s.cancelRequest)
	s.registerQueuePlaces()
}

// wait is acquire for a caller that has time.
func (s *server) wait(ctx context.Context, input *acquireInput) (*acquireOutput, error) {
	request, err := s.requestFrom(input.Body)
	if err != nil {
		return nil, err
	}
	lock, err := untilStopped(ctx, s, request.Resource.String(), func(ctx context.Context) (*enhanced.EnhancedLock, error) {
		return s.manager.Acquire(ctx, request)
	})
	if err != nil {
		return nil, err
	}
	return acquired(lock), nil
}

// untilStopped waits for what until the client goes or the server stops.
func untilStopped[T any](ctx context.Context, s *server, what string, wait func(context.Context) (T, error)) (answer T, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		select {
		case <-s.stopping:
			close(stopped)
			cancel()
		case <-ctx.Done():
		}
	}()
	answer, err = wait(ctx)
	if err == nil || ctx.Err() == nil {
		return answer, err
	}
	// Nothing failed: the client has gone, or the server is to stop.
	p := newProblem(http.StatusServiceUnavailable, "the call has ended; nobody waits for "+what+" any longer")
	p.OutcomeUnknown = errors.Is(err, enhanced.ErrOutcomeUnknown)
	select {
	case <-stopped:
		p.Detail = "the server is stopping; nobody waits for " + what + " any longer"
	default:
	}
	return answer, p
}

type queueInput struct {
	Repository string `query:"repository" doc:"Only what waits in this repository." example:"acme/infra"`
}

func (s *server) listQueue(ctx context.Context, input *queueInput) (*body[api.QueueList], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	status, err := store.GetQueueStatus(ctx)
	if err != nil {
		return nil, err
	}
	list := api.QueueList{Waiters: []api.Waiter{}}
	place := 0
	for i, r := range status.PendingRequests {
		if place++; i > 0 && r.Resource != status.PendingRequests[i-1].Resource {
			place = 1
		}
		if input.Repository == "" || r.Resource.Namespace == input.Repository {
			list.Waiters = append(list.Waiters, waiterView(r, place))
		}
	}
	return &body[api.QueueList]{list}, nil
}

func waiterView(r *enhanced.EnhancedLockRequest, place int) api.Waiter {
	owner := r.Owner().String()
	return api.Waiter{
		Place:       place,
		Type:        string(r.Resource.Type),
		Repository:  r.Resource.Namespace,
		Path:        r.Resource.Path,
		Workspace:   r.Resource.Workspace,
		ProjectName: r.Resource.Name,
		Priority:    r.Priority.String(),
		Owner:       ownerView(owner),
		OwnerID:     owner,
		RequestID:   r.ID,
		Note:        r.Metadata[enhanced.MetadataNote],
		Since:       r.RequestedAt.UTC(),
	}
}

type cancelInput struct {
	Body api.CancelRequest
}

func (s *server) cancelRequest(ctx context.Context, input *cancelInput) (*body[api.Cancelled], error) {
	r := input.Body
	owner, err := ownerFrom(r.Owner, r.Repository)
	if err != nil {
		return nil, err
	}
	actor := owner
	if r.Actor != "" {
		actor = enhanced.UserOwner(r.Actor)
	}
	if err := s.manager.CancelRequest(ctx, resourceFrom(r.Repository, r.Path, r.Workspace, r.ProjectName), owner.String(), actor.String()); err != nil {
		return nil, err
	}
	return &body[api.Cancelled]{api.Cancelled{OwnerID: owner.String()}}, nil
}
