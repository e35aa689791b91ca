package client

import (
	"context"
	"net/http"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// Mode returns the mode of all adapters of the store.
func (c *Client) Mode(ctx context.Context) (api.Fleet, error) {
	return call[api.Fleet](ctx, c, http.MethodGet, c.url(api.ModePath), nil, callTimeout)
}

// SetMode sets the mode of all adapters of the store.
func (c *Client) SetMode(ctx context.Context, request api.ModeRequest) (api.Fleet, error) {
	return call[api.Fleet](ctx, c, http.MethodPut, c.url(api.ModePath), request, callTimeout)
}

// ForgetAdapter removes an adapter that does not run any longer.
func (c *Client) ForgetAdapter(ctx context.Context, request api.ForgetRequest) (api.Fleet, error) {
	return call[api.Fleet](ctx, c, http.MethodPost, c.url(api.ForgetPath), request, callTimeout)
}
