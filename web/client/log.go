package client

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// Deadlocks returns the history of deadlocks since a time, in one repository if it
// is named.
func (c *Client) Deadlocks(ctx context.Context, repository string, since time.Time) (api.DeadlockList, error) {
	address := c.url(api.DeadlocksPath)
	from := ""
	if !since.IsZero() {
		from = since.UTC().Format(time.RFC3339)
	}
	address.RawQuery = query("repository", repository, "since", from)
	return call[api.DeadlockList](ctx, c, http.MethodGet, address, nil, callTimeout)
}

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
