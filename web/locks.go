package web

import (
	"context"
	"net/http"
	"path"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/events/models"
)

func (s *server) registerLocks() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "list-locks",
		Summary:     "List the held locks",
		Method:      http.MethodGet,
		Path:        api.LocksPath,
		Errors:      []int{http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.list)
	register(s, operationTimeout, huma.Operation{
		OperationID: "get-lock",
		Summary:     "Get a lock by its ID",
		Method:      http.MethodGet,
		Path:        api.LocksPath + "/{id}",
		Errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusGone, http.StatusServiceUnavailable},
	}, s.get)
	register(s, operationTimeout, huma.Operation{
		OperationID: "lookup-lock",
		Summary:     "Get the lock on a project",
		Method:      http.MethodGet,
		Path:        api.LookupPath,
		Errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, s.lookup)
	register(s, operationTimeout, huma.Operation{
		OperationID:   "acquire-lock",
		Summary:       "Lock a project",
		Description:   "A lock by a user, without timeout and with a note, freezes a project for maintenance: Atlantis refuses to plan it and shows the note.",
		Method:        http.MethodPost,
		Path:          api.LocksPath,
		DefaultStatus: http.StatusCreated,
		MaxBodyBytes:  maxBody,
		Errors:        acquireErrors(),
	}, s.acquire)
}

// acquireErrors are what asking for a lock can answer, with and without a wait.
func acquireErrors() []int {
	return []int{
		http.StatusBadRequest, http.StatusForbidden, http.StatusConflict, http.StatusGone,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}
}

type listInput struct {
	Repository string `query:"repository" doc:"Only locks of this repository." example:"acme/infra"`
	Owner      string `query:"owner" doc:"Only locks with this owner_id." example:"user:alice"`
}

func (s *server) list(ctx context.Context, input *listInput) (*body[api.LockList], error) {
	if input.Owner != "" {
		if _, err := enhanced.ParseOwner(input.Owner); err != nil {
			return nil, err
		}
	}
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	locks, err := store.ListLocks(ctx)
	if err != nil {
		return nil, err
	}
	list := api.LockList{Locks: []api.Lock{}}
	for _, lock := range locks {
		if input.Repository != "" && input.Repository != lock.Resource.Namespace ||
			input.Owner != "" && input.Owner != lock.Owner {
			continue
		}
		list.Locks = append(list.Locks, lockView(lock))
	}
	return &body[api.LockList]{list}, nil
}

type getInput struct {
	ID string `path:"id" doc:"The lock's ID."`
}

func (s *server) get(ctx context.Context, input *getInput) (*body[api.Lock], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	lock, err := store.GetLock(ctx, input.ID)
	if err != nil {
		return nil, err
	}
	return &body[api.Lock]{lockView(lock)}, nil
}

type lookupInput struct {
	Repository string `query:"repository" required:"true" example:"acme/infra"`
	Path       string `query:"path" required:"true" example:"envs/prod"`
	Workspace  string `query:"workspace" required:"true" example:"default"`
	Project    string `query:"project" doc:"The project's name, if it has one."`
}

func (s *server) lookup(ctx context.Context, input *lookupInput) (*body[api.Lock], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	lock, err := store.LookupLock(ctx, resourceFrom(input.Repository, input.Path, input.Workspace, input.Project))
	if err != nil {
		return nil, err
	}
	return &body[api.Lock]{lockView(lock)}, nil
}

type acquireInput struct {
	Body api.AcquireRequest
}

type acquireOutput struct {
	Location string `header:"Location" doc:"Where the lock can be read."`
	Body     api.Lock
}

func (s *server) acquire(ctx context.Context, input *acquireInput) (*acquireOutput, error) {
	request, err := s.requestFrom(input.Body)
	if err != nil {
		return nil, err
	}
	lock, err := s.manager.AcquireNow(ctx, request)
	if err != nil {
		return nil, err
	}
	return acquired(lock), nil
}

// acquired is the answer to who has got a lock.
func acquired(lock *enhanced.EnhancedLock) *acquireOutput {
	// Relative to the request, so that it is right wherever this is mounted.
	location := path.Base(api.LocksPath) + "/" + lock.ID
	return &acquireOutput{Location: location, Body: lockView(lock)}
}

// requestFrom returns what the manager is asked for.
func (s *server) requestFrom(r api.AcquireRequest) (*enhanced.EnhancedLockRequest, error) {
	owner, err := ownerFrom(r.Owner, r.Repository)
	if err != nil {
		return nil, err
	}
	priority, err := s.priorityFrom(r, owner)
	if err != nil {
		return nil, err
	}
	lease, err := leaseFrom(r.Timeout)
	if err != nil {
		return nil, err
	}
	request := &enhanced.EnhancedLockRequest{
		ID:       r.RequestID,
		Resource: resourceFrom(r.Repository, r.Path, r.Workspace, r.ProjectName),
		Priority: priority,
		Timeout:  lease,
	}
	if r.Note != "" {
		request.Metadata = map[string]string{enhanced.MetadataNote: r.Note}
	}
	if owner.Kind == enhanced.OwnerPull {
		request.Pull = pullOf(owner)
	} else {
		request.User = models.User{Username: owner.Name}
	}
	return request, nil
}
