package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
)

// remote takes one lock of a server, and renews and releases it.
type remote struct {
	server  *client.Client
	take    func(context.Context, api.AcquireRequest) (api.Lock, error)
	request api.AcquireRequest
}

var _ enhanced.Leaser = (*remote)(nil)

// hold returns a handle on the lock. The handle is lost so early that the command
// has its grace while the lease still runs.
func (r *remote) hold(ctx context.Context, flags runFlags) (*enhanced.Handle, error) {
	if flags.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, flags.timeout)
		defer cancel()
	}
	return enhanced.AcquireHandle(ctx, r, &enhanced.EnhancedLockRequest{Timeout: flags.lease}, enhanced.HandleOptions{
		Margin: flags.grace + flags.lease/10, MaxHold: flags.maxHold,
	})
}

func (r *remote) Acquire(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	wanted := r.request
	wanted.RequestID, wanted.Timeout = request.ID, request.Timeout.String()
	lock, err := r.take(ctx, wanted)
	if err != nil {
		if ctx.Err() != nil {
			r.undo(context.WithoutCancel(ctx), wanted)
		}
		return nil, refused(err)
	}
	token, err := strconv.ParseInt(lock.Token, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the server's lock %s has no token: %w", lock.ID, err)
	}
	return &enhanced.EnhancedLock{
		ID: lock.ID, Owner: lock.OwnerID, Version: token, AcquiredAt: lock.AcquiredAt, ExpiresAt: lock.ExpiresAt,
		Resource: enhanced.ResourceIdentifier{
			Type: enhanced.ResourceType(lock.Type), Namespace: lock.Repository,
			Path: lock.Path, Workspace: lock.Workspace, Name: lock.ProjectName,
		},
	}, nil
}

// undo releases what a request may have got that was given up: the same request
// again answers with its lock. Where that fails, the lease ends it.
func (r *remote) undo(ctx context.Context, wanted api.AcquireRequest) {
	ctx, cancel := context.WithTimeout(ctx, runReleaseTimeout)
	defer cancel()
	if lock, err := r.server.Acquire(ctx, wanted); err == nil {
		_, _ = r.server.Unlock(ctx, r.unlock(lock.ID)) //nolint:errcheck // see above
	}
}

func (r *remote) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	_, err := r.server.Refresh(ctx, api.RefreshRequest{ID: lockID, Owner: r.request.Owner, Timeout: extension.String()})
	return refused(err)
}

func (r *remote) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	answer, err := r.server.Unlock(ctx, r.unlock(request.LockID))
	if err != nil {
		return nil, refused(err)
	}
	return &enhanced.EnhancedLock{
		ID: answer.Lock.ID, Owner: answer.Lock.OwnerID, State: enhanced.LockState(answer.Lock.State), AcquiredAt: answer.Lock.AcquiredAt,
	}, nil
}

func (r *remote) unlock(id string) api.UnlockRequest {
	return api.UnlockRequest{
		ID: id, Owner: &r.request.Owner,
		Repository: r.request.Repository, Path: r.request.Path, Workspace: r.request.Workspace, ProjectName: r.request.ProjectName,
	}
}

// refusal is a server's refusal as an error of the lock package.
type refusal struct{ *api.Problem }

func refused(err error) error {
	if problem := (*api.Problem)(nil); errors.As(err, &problem) {
		return &refusal{problem}
	}
	return err
}

func (r *refusal) Unwrap() error { return r.Problem }

func (r *refusal) Is(target error) bool {
	return (&enhanced.LockError{Code: r.Code}).Is(target)
}
