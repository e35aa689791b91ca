package client

import (
	"context"
	"net/http"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// TestCompatibility has the server test whether Atlantis could use its locks.
func (c *Client) TestCompatibility(ctx context.Context) (api.CompatibilityReport, error) {
	return call[api.CompatibilityReport](ctx, c, http.MethodPost, c.url(api.CompatibilityPath), nil, verifyTimeout)
}
