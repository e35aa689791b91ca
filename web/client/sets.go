package client

import (
	"context"
	"net/http"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// AcquireAll takes the locks of several projects, or none.
func (c *Client) AcquireAll(ctx context.Context, request api.AcquireAllRequest) (api.LockList, error) {
	return call[api.LockList](ctx, c, http.MethodPost, c.url(api.LockAllPath), request, callTimeout)
}

// ReplaceLocks makes the locks of several projects all that their owner holds in the
// repository.
func (c *Client) ReplaceLocks(ctx context.Context, request api.AcquireAllRequest) (api.ReplacedLocks, error) {
	return call[api.ReplacedLocks](ctx, c, http.MethodPost, c.url(api.ReplaceLocksPath), request, callTimeout)
}

// WaitAll takes the locks of several projects at once, and waits for that. See
// [Client.Wait].
func (c *Client) WaitAll(ctx context.Context, request api.AcquireAllRequest) (api.LockList, error) {
	return call[api.LockList](ctx, c, http.MethodPost, c.url(api.WaitAllPath), request, waitTimeout)
}
