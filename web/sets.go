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
	register(s, operationTimeout, huma.Operation{
		OperationID: "replace-locks",
		Summary:     "Make several projects all that an owner has locked in a repository",
		Description: "In one step: what the owner holds of them stays as it is, the rest of them is locked, and what else the owner holds in the repository is freed. " +
			"Where one of them is held by another nothing changes, and the answer names each that is. It never waits.",
		Method:       http.MethodPost,
		Path:         api.ReplaceLocksPath,
		MaxBodyBytes: maxBody,
		Errors:       acquireErrors(),
	}, s.replaceLocks)
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

func (s *server) replaceLocks(ctx context.Context, input *acquireAllInput) (*body[api.ReplacedLocks], error) {
	requests, err := s.setFrom(input.Body)
	if err != nil {
		return nil, err
	}
	// A set has one project at least, so it says whose it is.
	replaced, err := s.manager.ReplaceLocks(ctx, requests[0].Owner(), requests)
	if err != nil {
		return nil, err
	}
	return &body[api.ReplacedLocks]{api.ReplacedLocks{
		Held: lockViews(replaced.Held), Taken: lockViews(replaced.Taken), Freed: lockViews(replaced.Freed),
	}}, nil
}

func lockList(locks []*enhanced.EnhancedLock, err error) (*body[api.LockList], error) {
	if err != nil {
		return nil, err
	}
	return &body[api.LockList]{api.LockList{Locks: lockViews(locks)}}, nil
}

func lockViews(locks []*enhanced.EnhancedLock) []api.Lock {
	views := make([]api.Lock, len(locks))
	for i, lock := range locks {
		views[i] = lockView(lock)
	}
	return views
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
