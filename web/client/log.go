package client

import (
	"context"
	"net/http"
	"strconv"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// Log returns a piece of a repository's log.
func (c *Client) Log(ctx context.Context, filter api.LogFilter) (api.LogPage, error) {
	address := c.url(api.LogPath)
	// Not query: the repository is given even where its name is empty.
	values := address.Query()
	values.Set("repository", filter.Repository)
	values.Set("after", strconv.FormatUint(filter.After, 10))
	values.Set("limit", strconv.Itoa(filter.Limit))
	address.RawQuery = values.Encode()
	return call[api.LogPage](ctx, c, http.MethodGet, address, nil, callTimeout)
}

// Repositories returns the repositories that have a log.
func (c *Client) Repositories(ctx context.Context) (api.RepositoryList, error) {
	return call[api.RepositoryList](ctx, c, http.MethodGet, c.url(api.RepositoriesPath), nil, callTimeout)
}
