package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// Workload drives clients that want few resources, each from a goroutine of its
// own. What it asks for comes from Seed alone; what happens, from chance too.
// The zero value of a field means its default.
type Workload struct {
	Seed uint64
	// Clients and Steps are how many there are, and calls of each. Defaults 10 and 100.
	Clients, Steps int
	// MinLease and MaxLease bound the leases that are asked for. Defaults 10ms
	// and 40ms: short enough to end during a run.
	MinLease, MaxLease time.Duration
	// CancelWithin is the longest after which a context ends, of those that do.
	// Default 2ms.
	CancelWithin time.Duration
	// NoLeases has no lock end by itself, whatever the clock shows.
	NoLeases bool
	// Delay is the stores' UncleanReleaseDelay.
	Delay time.Duration
}

const host = "github.com"

// resources are what a workload's clients want. One repository's name starts
// with another's.
func resources() []enhanced.ResourceIdentifier {
	return []enhanced.ResourceIdentifier{
		enhanced.ProjectResource(models.NewProject("org/app", ".", ""), "default"),
		enhanced.ProjectResource(models.NewProject("org/app", "envs/prod", ""), "default"),
		enhanced.ProjectResource(models.NewProject("org/app-prod", ".", ""), "default"),
	}
}

// Run runs the clients on the backends, in turn, until all have made their
// calls, and returns what happened. An answer that no call may get, such as one
// of a store that is down, is an error: the history is there all the same.
func (w Workload) Run(ctx context.Context, stores ...enhanced.Backend) (*History, error) {
	setDefault(&w.Clients, 10)
	setDefault(&w.Steps, 100)
	setDefault(&w.MinLease, 10*time.Millisecond)
	setDefault(&w.MaxLease, 40*time.Millisecond)
	setDefault(&w.CancelWithin, 2*time.Millisecond)
	recorder := NewRecorder()
	actors := make([]*actor, w.Clients)
	for i := range actors {
		backend := stores[i%len(stores)]
		actors[i] = &actor{
			Workload: w, client: recorder.Client(backend), backend: backend, number: i,
			random: rand.New(rand.NewPCG(w.Seed, uint64(i))), //nolint:gosec // not for secrets
			clock:  []time.Duration{0, time.Hour, -time.Hour}[i%3],
		}
	}
	start := make(chan struct{})
	var done sync.WaitGroup
	for _, a := range actors {
		done.Go(func() {
			<-start
			for range w.Steps {
				a.step(ctx)
			}
		})
	}
	close(start)
	done.Wait()
	// What is there at the end is a part of the history.
	last := recorder.Client(stores[0])
	for _, resource := range resources() {
		_, err := last.Lookup(ctx, resource)
		actors[0].expect(err, enhanced.ErrLockNotFound)
	}
	h := recorder.History()
	h.Seed, h.Delay = w.Seed, w.Delay
	var errs []error
	for _, a := range actors {
		errs = append(errs, a.errs...)
	}
	return h, errors.Join(errs...)
}

func setDefault[N int | time.Duration](field *N, value N) {
	if *field == 0 {
		*field = value
	}
}

// actor is one client and what it believes.
type actor struct {
	Workload
	client  *Client
	backend enhanced.Backend
	number  int
	random  *rand.Rand
	// clock is how wrong this client's clock is. No store may go by it.
	clock time.Duration

	held     []*enhanced.EnhancedLock // what it believes to hold
	past     []*enhanced.EnhancedLock // what it held or saw once
	requests int
	// again is a request that it may send once more, as after a lost answer.
	again *enhanced.EnhancedLockRequest
	errs  []error
}

// maxPast is how many locks of the past an actor keeps.
const maxPast = 6

// step makes one call.
func (a *actor) step(ctx context.Context) {
	if a.random.IntN(6) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(a.random.Int64N(int64(a.CancelWithin))))
		defer cancel()
	}
	if len(a.held) > 0 && a.random.IntN(3) > 0 {
		a.useHeld(ctx)
		return
	}
	resource := a.resource()
	switch n := a.random.IntN(100); {
	case n < 50:
		a.acquire(ctx, a.request(resource))
	case n < 58 && a.again != nil:
		a.acquire(ctx, a.again)
	case n < 68:
		lock, err := a.client.Lookup(ctx, resource)
		a.expect(err, enhanced.ErrLockNotFound)
		a.remember(lock)
	case n < 83 && len(a.past) > 0:
		a.usePast(ctx)
	case n < 87:
		_, err := a.client.ReleaseByPull(ctx, resource.Namespace, a.pullNumber(), enhanced.SystemAtlantis)
		a.expect(err)
	case n < 92:
		_, err := a.client.ReleaseOwned(ctx, resource, a.request(resource).Owner().String())
		a.expect(err, enhanced.ErrLockNotFound, enhanced.ErrPermissionDenied)
	case n < 96:
		if a.Delay > 0 {
			ctx = context.WithoutCancel(ctx) // see model.forceRelease
		}
		_, err := a.client.ForceRelease(ctx, resource, enhanced.UserOwner("admin").String())
		a.expect(err, enhanced.ErrLockNotFound)
	default:
		_, err := a.backend.CleanupExpiredLocks(ctx)
		a.expect(err)
	}
}

func (a *actor) acquire(ctx context.Context, request *enhanced.EnhancedLockRequest) {
	lock, acquired, err := a.client.Acquire(ctx, request)
	a.expect(err, enhanced.ErrLockExpired)
	a.again = request
	if acquired {
		a.held = append(a.held, lock)
	}
	a.remember(lock)
}

// useHeld does something with a lock that the actor believes to hold.
func (a *actor) useHeld(ctx context.Context) {
	i := a.random.IntN(len(a.held))
	lock := a.held[i]
	keep := false
	switch n := a.random.IntN(100); {
	case n < 60:
		a.expect(a.client.Release(ctx, lock), enhanced.ErrLockNotFound, enhanced.ErrLockExpired)
	case n < 80:
		keep = true
		a.expect(a.client.Refresh(ctx, lock, a.lease()), enhanced.ErrLockNotFound, enhanced.ErrLockExpired, enhanced.ErrInvalidRequest)
	case n < 90:
		owner := a.owner(a.random.IntN(a.Clients), lock.Resource)
		a.expect(a.client.Transfer(ctx, lock, owner.String()), enhanced.ErrLockNotFound, enhanced.ErrLockExpired)
	default:
		// It forgets the lock, as a process that dies.
	}
	if !keep {
		a.held = append(a.held[:i:i], a.held[i+1:]...)
	}
}

// usePast does what must not touch a later lock, with a lock that the actor
// held or saw once.
func (a *actor) usePast(ctx context.Context) {
	lock := a.past[a.random.IntN(len(a.past))]
	switch a.random.IntN(5) {
	case 0, 1:
		a.expect(a.client.Refresh(ctx, lock, a.lease()), enhanced.ErrLockNotFound, enhanced.ErrLockExpired, enhanced.ErrInvalidRequest)
	case 2:
		a.expect(a.client.Transfer(ctx, lock, a.owner(a.number, lock.Resource).String()), enhanced.ErrLockNotFound, enhanced.ErrLockExpired)
	default:
		a.expect(a.client.Release(ctx, lock), enhanced.ErrLockNotFound, enhanced.ErrLockExpired)
	}
}

func (a *actor) remember(lock *enhanced.EnhancedLock) {
	if lock == nil || lock.ID == "" {
		return
	}
	if a.past = append(a.past, lock); len(a.past) > maxPast {
		a.past = a.past[1:]
	}
}

// expect notes an error that no call may get.
func (a *actor) expect(err error, allowed ...error) {
	if err == nil {
		return
	}
	for _, target := range append(allowed, context.Canceled, context.DeadlineExceeded) {
		if errors.Is(err, target) {
			return
		}
	}
	a.errs = append(a.errs, fmt.Errorf("seed %d: unexpected answer: %w", a.Seed, err))
}

func (a *actor) resource() enhanced.ResourceIdentifier {
	all := resources()
	return all[a.random.IntN(len(all))]
}

func (a *actor) lease() time.Duration {
	return a.MinLease + time.Duration(a.random.Int64N(int64(a.MaxLease-a.MinLease)+1))
}

// pullNumber is one of few: several clients act for one pull request.
func (a *actor) pullNumber() int { return []int{5, 55}[a.random.IntN(2)] }

// owner returns client i's owner: users, and pull requests with equal numbers.
func (a *actor) owner(i int, resource enhanced.ResourceIdentifier) enhanced.Owner {
	if i%2 == 0 {
		return enhanced.PullOwner(host, resource.Namespace, []int{5, 55}[i/2%2])
	}
	return enhanced.UserOwner(fmt.Sprintf("user-%d", i))
}

// request returns a new request, two thirds of which name a lease.
func (a *actor) request(resource enhanced.ResourceIdentifier) *enhanced.EnhancedLockRequest {
	a.requests++
	request := &enhanced.EnhancedLockRequest{
		ID:          fmt.Sprintf("%d-%d", a.number, a.requests),
		Resource:    resource,
		Timeout:     enhanced.NoTimeout,
		RequestedAt: time.Now().Add(a.clock),
	}
	if !a.NoLeases && a.random.IntN(3) > 0 {
		request.Timeout = a.lease()
	}
	switch owner := a.owner(a.number, resource); owner.Kind {
	case enhanced.OwnerPull:
		request.Pull = &models.PullRequest{Num: owner.Number, BaseRepo: models.Repo{
			FullName: owner.Repository, VCSHost: models.VCSHost{Hostname: owner.Host},
		}}
	default:
		request.User = models.User{Username: owner.Name}
	}
	return request
}
