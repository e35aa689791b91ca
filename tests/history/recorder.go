package history

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Recorder records what clients ask and are answered, on one monotonic clock.
// Its methods are safe for concurrent use.
type Recorder struct {
	start time.Time

	mu      sync.Mutex // protects clients
	clients []*Client
}

// NewRecorder returns a recorder whose time starts now.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Client returns a new client of backend. Several clients can have backends of
// their own on one store.
func (r *Recorder) Client(backend enhanced.Backend) *Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &Client{recorder: r, backend: backend, number: len(r.clients)}
	r.clients = append(r.clients, c)
	return c
}

// now is the recorder's clock. It is monotonic.
func (r *Recorder) now() int64 { return int64(time.Since(r.start)) }

// History returns what was recorded. No client may have a call under way.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &History{Slack: leaseSlack + r.drift()}
	var pulls []pullRelease
	for _, c := range r.clients {
		h.Operations = append(h.Operations, c.operations...)
		pulls = append(pulls, c.pulls...)
	}
	h.Operations = append(h.Operations, expand(pulls, h.Operations)...)
	slices.SortStableFunc(h.Operations, func(a, b Operation) int { return cmp.Compare(a.Call, b.Call) })
	next := len(r.clients)
	for i := range h.Operations {
		// Its caller has gone on, it may still be under way.
		if op := &h.Operations[i]; op.Answer == Unknown {
			op.Client, op.Return = next, Never
			next++
		}
	}
	return h
}

// drift is how much the machine's clock, which stores go by, has gone
// differently from the monotonic one since the start.
func (r *Recorder) drift() time.Duration {
	now := time.Now()
	return (now.Round(0).Sub(r.start.Round(0)) - now.Sub(r.start)).Abs()
}

// Client calls a backend and records each call. It is for one goroutine at a
// time. A lock is named by what an answer said of it, never by a bare ID: an ID
// does not tell which resource its operation is about.
type Client struct {
	recorder   *Recorder
	backend    enhanced.Backend
	number     int
	operations []Operation
	pulls      []pullRelease
}

// pullRelease is a release-by-pull, before it is cut into its resources.
type pullRelease struct {
	Operation
	released []*enhanced.EnhancedLock
}

func placeOf(resource enhanced.ResourceIdentifier) place {
	return place{resource.Namespace, resource.Key()}
}

// expand makes an operation on each resource of each release-by-pull: on those
// that it released, and on all others of its repository that occur in others.
func expand(pulls []pullRelease, others []Operation) []Operation {
	known := make(map[place]struct{})
	for _, op := range others {
		known[op.place()] = struct{}{}
	}
	for _, p := range pulls {
		for _, lock := range p.released {
			known[placeOf(lock.Resource)] = struct{}{}
		}
	}
	var operations []Operation
	for _, p := range pulls {
		freed := make(map[place]*Lock)
		for _, lock := range p.released {
			freed[placeOf(lock.Resource)] = lockOf(lock)
		}
		for at := range known {
			op := p.Operation
			op.Repository, op.Resource, op.Lock = at.repository, at.resource, freed[at]
			if op.Lock == nil {
				if at.repository != op.PullRepository {
					continue
				}
				if op.Answer == Done {
					op.Answer = Absent
				}
			}
			operations = append(operations, op)
		}
	}
	return operations
}

// call makes a call and returns its operation with everything but the lock.
func (c *Client) call(op Operation, call func() error) Operation {
	op.Client = c.number
	op.Call = c.recorder.now()
	err := call()
	op.Return = c.recorder.now()
	if op.Answer = answerTo(err); err != nil {
		op.Error = err.Error()
	}
	return op
}

func (c *Client) keep(op Operation, resource enhanced.ResourceIdentifier, lock *enhanced.EnhancedLock) {
	at := placeOf(resource.Normalized())
	op.Repository, op.Resource, op.Lock = at.repository, at.resource, lockOf(lock)
	if op.Kind == Lookup && op.Answer == Unknown {
		return // a read that was not answered says nothing
	}
	c.operations = append(c.operations, op)
}

// errNoLease refuses what could not be judged: the lease would be the store's
// default.
var errNoLease = errors.New("a recorded request names its lease, or NoTimeout")

// Acquire is TryAcquireLock. The request must name its lease, or NoTimeout.
func (c *Client) Acquire(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	if request.Timeout == 0 {
		return nil, false, errNoLease
	}
	// What is sent and what is recorded must be the same, IDs included.
	request, err := enhanced.NormalizeRequest(request, enhanced.NoTimeout, max(request.Timeout, 0))
	if err != nil {
		return nil, false, err
	}
	op := Operation{Kind: Acquire, Owner: request.Owner().String(), Request: request.ID}
	if request.Timeout != enhanced.NoTimeout {
		op.Lease = request.Timeout
	}
	var lock *enhanced.EnhancedLock
	var acquired bool
	op = c.call(op, func() error {
		lock, acquired, err = c.backend.TryAcquireLock(ctx, request)
		return err
	})
	if op.Answer == Done && !acquired {
		op.Answer = Held
	}
	c.keep(op, request.Resource, lock)
	return lock, acquired, err
}

// Release is ReleaseLock of the lock's ID.
func (c *Client) Release(ctx context.Context, lock *enhanced.EnhancedLock) error {
	var err error
	op := c.call(Operation{Kind: Release, Token: lock.Version}, func() error {
		err = c.backend.ReleaseLock(ctx, lock.ID)
		return err
	})
	c.keep(op, lock.Resource, nil)
	return err
}

// Refresh is RefreshLock of the lock's ID.
func (c *Client) Refresh(ctx context.Context, lock *enhanced.EnhancedLock, extension time.Duration) error {
	var err error
	op := c.call(Operation{Kind: Refresh, Token: lock.Version, Lease: extension}, func() error {
		err = c.backend.RefreshLock(ctx, lock.ID, extension)
		return err
	})
	c.keep(op, lock.Resource, nil)
	return err
}

// Transfer is TransferLock of the lock's ID.
func (c *Client) Transfer(ctx context.Context, lock *enhanced.EnhancedLock, owner string) error {
	var err error
	op := c.call(Operation{Kind: Transfer, Token: lock.Version, Owner: owner}, func() error {
		err = c.backend.TransferLock(ctx, lock.ID, owner)
		return err
	})
	c.keep(op, lock.Resource, nil)
	return err
}

// ReleaseOwned is Release of whatever lock the owner has on the resource.
func (c *Client) ReleaseOwned(ctx context.Context, resource enhanced.ResourceIdentifier, owner string) (*enhanced.EnhancedLock, error) {
	return c.releaseResource(ctx, ReleaseOwned, enhanced.ReleaseRequest{Resource: resource, Owner: owner})
}

// ForceRelease is a forced Release of whatever lock there is.
func (c *Client) ForceRelease(ctx context.Context, resource enhanced.ResourceIdentifier, actor string) (*enhanced.EnhancedLock, error) {
	return c.releaseResource(ctx, ForceRelease, enhanced.ReleaseRequest{Resource: resource, Force: true, Actor: actor})
}

func (c *Client) releaseResource(ctx context.Context, kind Kind, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	var lock *enhanced.EnhancedLock
	var err error
	op := c.call(Operation{Kind: kind, Owner: request.Owner}, func() error {
		lock, err = c.backend.Release(ctx, request)
		return err
	})
	shown := lock
	if op.Answer == Denied {
		shown = holderOf(err)
	}
	c.keep(op, request.Resource, shown)
	return lock, err
}

// Lookup is LookupLock.
func (c *Client) Lookup(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	var lock *enhanced.EnhancedLock
	var err error
	op := c.call(Operation{Kind: Lookup}, func() error {
		lock, err = c.backend.LookupLock(ctx, resource)
		return err
	})
	c.keep(op, resource, lock)
	return lock, err
}

// ReleaseByPull is ReleaseByPull. It is recorded on every resource of the
// repository that occurs in the history, see the package's comment.
func (c *Client) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	var locks []*enhanced.EnhancedLock
	var err error
	op := c.call(Operation{Kind: ReleaseByPull, PullRepository: repository, PullNumber: number}, func() error {
		locks, err = c.backend.ReleaseByPull(ctx, repository, number, actor)
		return err
	})
	c.pulls = append(c.pulls, pullRelease{op, locks})
	return locks, err
}
