package client

import (
	"context"
	"errors"
	"net/http"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// verifyTimeout is longer than the server's limit for a check and a repair.
const verifyTimeout = importTimeout

// Verify checks the store.
func (c *Client) Verify(ctx context.Context) (api.Verification, error) {
	verification, err := call[api.Verification](ctx, c, http.MethodPost, c.url(api.VerifyPath), nil, verifyTimeout)
	if unreachable := (*UnreachableError)(nil); errors.As(err, &unreachable) {
		unreachable.OutcomeUnknown = false // a check changes nothing
	}
	return verification, err
}

// Repair repairs the store.
func (c *Client) Repair(ctx context.Context, request api.RepairRequest) (api.Repair, error) {
	return call[api.Repair](ctx, c, http.MethodPost, c.url(api.RepairPath), request, verifyTimeout)
}
