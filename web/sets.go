package web

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerSets() {
	register(s, operationTimeout, huma.Operation{
		OperationID:   "acquire-all",
		Summary:       "Lock several projects of a repository, or none",
		Description:   "Where one of them is held nothing is locked, and the answer names each that is held and by whom; what the owner itself holds counts, too.",
		Method:        http.MethodPost,
		Path:          api.LockAllPath,
		DefaultStatus: http.StatusCreated,
		MaxBodyBytes:  maxBody,
		Errors:        acquireErrors(),
	}, s.acquireAll)
	register(s, waitLimit, huma.Operation{
		OperationID: "wait-for-all",
		Summary:     "Lock several projects of a repository, and wait for that in the queue",
		Description: "As waiting for one lock. The projects are locked in one step, once all of them can be; nothing is held meanwhile. " +
			"Without a queue, and on Redis, it is the same as locking them.",
		Method:        http.MethodPost,
		Path:          api.WaitAllPath,
		DefaultStatus: http.StatusCreated,
		MaxBodyBytes:  maxBody,
		Errors:        acquireErrors(),
	}, s.waitForAll)
}

type acquireAllInput struct {
	Body api.AcquireAllRequest
}

func (s *server) acquireAll(ctx context.Context, input *acquireAllInput) (*body[api.LockList], error) {
	requests, err := s.setFrom(input.Body)
	if err != nil {
		return nil, err
	}
	return lockList(s.manager.LockAllNow(ctx, requests))
}

func (s *server) waitForAll(ctx context.Context, input *acquireAllInput) (*body[api.LockList], error) {
	requests, err := s.setFrom(input.Body)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d projects of %s", len(requests), input.Body.Repository)
	locks, err := untilStopped(ctx, s, what, func(ctx context.Context) ([]*enhanced.EnhancedLock, error) {
		return s.manager.LockAll(ctx, requests)
	})
	return lockList(locks, err)
}

func lockList(locks []*enhanced.EnhancedLock, err error) (*body[api.LockList], error) {
	if err != nil {
		return nil, err
	}
	list := api.LockList{Locks: make([]api.Lock, len(locks))}
	for i, lock := range locks {
		list.Locks[i] = lockView(lock)
	}
	return &body[api.LockList]{list}, nil
}

// setFrom returns what the manager is asked for. The requests' IDs follow from that
// of the set.
func (s *server) setFrom(set api.AcquireAllRequest) ([]*enhanced.EnhancedLockRequest, error) {
	requests := make([]*enhanced.EnhancedLockRequest, len(set.Projects))
	for i, project := range set.Projects {
		one := api.AcquireRequest{
			Repository: set.Repository, Path: project.Path, Workspace: project.Workspace, ProjectName: project.ProjectName,
			Owner: set.Owner, Priority: set.Priority, Timeout: set.Timeout, Note: set.Note,
		}
		if set.RequestID != "" {
			one.RequestID = set.RequestID + "/" + strconv.Itoa(i)
		}
		request, err := s.requestFrom(one)
		if err != nil {
			return nil, err
		}
		requests[i] = request
	}
	return requests, nil
}
