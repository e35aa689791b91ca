// Package client calls the HTTP API that package web serves.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

const (
	// callTimeout bounds every call but an import and a wait. It is longer than the
	// server's own limit, whose answer says more.
	callTimeout = 30 * time.Second
	// importTimeout is longer than the server's limit for imports.
	importTimeout = 3 * time.Minute
	// waitTimeout is longer than the server's limit for those who wait.
	waitTimeout = 25 * time.Hour
	// maxProblem bounds what is read of an error.
	maxProblem = 1 << 20
)

// Client calls one server. Errors that the server answers are [*api.Problem];
// that there was no answer is an [*UnreachableError]. It is safe for concurrent
// use.
type Client struct {
	base *url.URL
	http http.Client
}

// UnreachableError says that a server could not be reached or did not answer.
type UnreachableError struct {
	// Server is the address that was tried.
	Server string
	// Connected says that there was a connection: the server may have got the
	// request.
	Connected bool
	// OutcomeUnknown says that the request may have changed something.
	OutcomeUnknown bool
	Err            error
}

// Error says what failed.
func (e *UnreachableError) Error() string {
	if e.Connected {
		return fmt.Sprintf("no answer from %s: %v", e.Server, e.Err)
	}
	return fmt.Sprintf("can't reach %s: %v", e.Server, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// New returns a client of the server at address, such as
// "http://127.0.0.1:4142".
func New(address string) (*Client, error) {
	base, err := url.Parse(address)
	switch {
	case err != nil:
		// The parser's error repeats the address, and with it a password.
		return nil, errors.New("the server's address is no URL")
	case base.User == nil && strings.Contains(address, "@"):
		// What stands before it may be a password, too.
		return nil, errors.New("the server's address is no http or https address")
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("server %q is no http or https address", base.Redacted())
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("server %q has more than a scheme, a host and a path", base.Redacted())
	}
	return &Client{base: base, http: http.Client{
		// The API never redirects; whoever does is another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Server returns the address that the client was made with.
func (c *Client) Server() string { return c.base.String() }

// Acquire takes a lock.
func (c *Client) Acquire(ctx context.Context, request api.AcquireRequest) (api.Lock, error) {
	return call[api.Lock](ctx, c, http.MethodPost, c.url(api.LocksPath), request, callTimeout)
}

// Wait takes a lock, and waits for it in its queue: until it has it, the server's
// limit is over or ctx ends. Then the request leaves the queue.
func (c *Client) Wait(ctx context.Context, request api.AcquireRequest) (api.Lock, error) {
	return call[api.Lock](ctx, c, http.MethodPost, c.url(api.WaitPath), request, waitTimeout)
}

// Queue returns what waits, in one repository if it is named.
func (c *Client) Queue(ctx context.Context, repository string) (api.QueueList, error) {
	address := c.url(api.QueuePath)
	address.RawQuery = query("repository", repository)
	return call[api.QueueList](ctx, c, http.MethodGet, address, nil, callTimeout)
}

// Cancel takes a request out of the queue.
func (c *Client) Cancel(ctx context.Context, request api.CancelRequest) (api.Cancelled, error) {
	return call[api.Cancelled](ctx, c, http.MethodPost, c.url(api.CancelPath), request, callTimeout)
}

// Position returns where an owner stands in the queue of a project.
func (c *Client) Position(ctx context.Context, resource api.Resource, owner api.Owner) (api.Position, error) {
	address := c.url(api.PositionPath)
	pull := ""
	if owner.Pull != 0 {
		pull = strconv.Itoa(owner.Pull)
	}
	address.RawQuery = query("repository", resource.Repository, "path", resource.Path, "workspace", resource.Workspace,
		"project", resource.ProjectName, "user", owner.User, "pull", pull, "host", owner.Host)
	return call[api.Position](ctx, c, http.MethodGet, address, nil, callTimeout)
}

// Priority returns how the queue treats a request of a user that names no priority.
func (c *Client) Priority(ctx context.Context, resource api.Resource, user string) (api.Priority, error) {
	address := c.url(api.PriorityPath)
	address.RawQuery = query("repository", resource.Repository, "path", resource.Path, "workspace", resource.Workspace,
		"project", resource.ProjectName, "user", user)
	return call[api.Priority](ctx, c, http.MethodGet, address, nil, callTimeout)
}

// Reload has the server read its configuration again.
func (c *Client) Reload(ctx context.Context) (api.Reload, error) {
	return call[api.Reload](ctx, c, http.MethodPost, c.url(api.ReloadPath), nil, callTimeout)
}

// Move puts a request before all others in its queue.
func (c *Client) Move(ctx context.Context, request api.MoveRequest) (api.Moved, error) {
	return call[api.Moved](ctx, c, http.MethodPost, c.url(api.MovePath), request, callTimeout)
}

// Unlock releases a lock.
func (c *Client) Unlock(ctx context.Context, request api.UnlockRequest) (api.Unlocked, error) {
	return call[api.Unlocked](ctx, c, http.MethodPost, c.url(api.UnlockPath), request, callTimeout)
}

// Refresh renews the lease of a lock.
func (c *Client) Refresh(ctx context.Context, request api.RefreshRequest) (api.Refreshed, error) {
	return call[api.Refreshed](ctx, c, http.MethodPost, c.url(api.RefreshPath), request, callTimeout)
}

// Get returns the lock with the ID.
func (c *Client) Get(ctx context.Context, id string) (api.Lock, error) {
	return call[api.Lock](ctx, c, http.MethodGet, c.url(api.LocksPath, id), nil, callTimeout)
}

// Lookup returns the lock on a resource.
func (c *Client) Lookup(ctx context.Context, resource api.Resource) (api.Lock, error) {
	address := c.url(api.LookupPath)
	address.RawQuery = query("repository", resource.Repository, "path", resource.Path,
		"workspace", resource.Workspace, "project", resource.ProjectName)
	return call[api.Lock](ctx, c, http.MethodGet, address, nil, callTimeout)
}

// List returns the locks that the filter chooses.
func (c *Client) List(ctx context.Context, filter api.Filter) (api.LockList, error) {
	address := c.url(api.LocksPath)
	address.RawQuery = query("repository", filter.Repository, "owner", filter.OwnerID)
	return call[api.LockList](ctx, c, http.MethodGet, address, nil, callTimeout)
}

// Stats returns the statistics.
func (c *Client) Stats(ctx context.Context) (api.Stats, error) {
	return call[api.Stats](ctx, c, http.MethodGet, c.url(api.StatsPath), nil, callTimeout)
}

// Import takes over locks of stock Atlantis.
func (c *Client) Import(ctx context.Context, request api.ImportRequest) (api.ImportReport, error) {
	return call[api.ImportReport](ctx, c, http.MethodPost, c.url(api.ImportPath), request, importTimeout)
}

// url returns the address of path, followed by one escaped segment if given.
func (c *Client) url(path string, segment ...string) *url.URL {
	address := c.base.JoinPath(path)
	for _, s := range segment {
		// Not JoinPath, and dots escaped: ".." is a name here.
		address.RawPath = address.EscapedPath() + "/" + strings.ReplaceAll(url.PathEscape(s), ".", "%2E")
		address.Path += "/" + s
	}
	return address
}

// query encodes the parameters that are not empty.
func query(namesAndValues ...string) string {
	values := url.Values{}
	for i := 0; i < len(namesAndValues); i += 2 {
		if value := namesAndValues[i+1]; value != "" {
			values.Set(namesAndValues[i], value)
		}
	}
	return values.Encode()
}

func call[T any](ctx context.Context, c *Client, method string, address *url.URL, body any, timeout time.Duration) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := newRequest(ctx, method, address, body)
	if err != nil {
		return answer, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer, c.unreachable(method, err)
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return answer, c.problem(response)
	}
	if !hasType(response, "application/json") {
		return answer, c.stranger(response)
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, c.noAnswer(method, fmt.Errorf("it broke off: %w", err))
	}
	return answer, nil
}

func newRequest(ctx context.Context, method string, address *url.URL, body any) (*http.Request, error) {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, address.String(), reader)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// unreachable tells a server that never got the request from one that may have.
func (c *Client) unreachable(method string, err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // the address is said once
	}
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		return &UnreachableError{Server: c.Server(), Err: err}
	}
	return c.noAnswer(method, err)
}

func (c *Client) noAnswer(method string, err error) error {
	return &UnreachableError{Server: c.Server(), Connected: true, OutcomeUnknown: method != http.MethodGet, Err: err}
}

// problem reads the error that the server answered.
func (c *Client) problem(response *http.Response) error {
	p := new(api.Problem)
	if !hasType(response, api.ProblemContentType) ||
		json.NewDecoder(io.LimitReader(response.Body, maxProblem)).Decode(p) != nil || p.Code == "" {
		return c.stranger(response)
	}
	return p
}

// stranger is the error for an answer that is none of the API's.
func (c *Client) stranger(response *http.Response) error {
	return fmt.Errorf("%s answered %q, and not as atlantis-locks does", c.Server(), response.Status)
}

func hasType(response *http.Response, want string) bool {
	got, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return err == nil && got == want
}
