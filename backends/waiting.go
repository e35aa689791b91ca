package backends

import (
	"context"
	"maps"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// waiting has the blocked calls of this process, by request. A waiter in a store
// is alive while its call is in here.
type waiting struct {
	// watch is called in a goroutine of its own for each resource that calls
	// wait for, until its context ends.
	watch func(ctx context.Context, resource enhanced.ResourceIdentifier)

	callers sync.WaitGroup // calls that are in
	work    sync.WaitGroup // watches, and what calls have left behind

	mu      sync.Mutex // protects all below
	calls   map[requestName]*waitingCall
	watched map[enhanced.ResourceIdentifier]*watched
	// byKey counts the requests for each resource, by the key that stock Atlantis
	// has for it.
	byKey    map[string]map[enhanced.ResourceIdentifier]int
	isClosed bool
	closed   chan struct{}
}

// requestName names a request: its ID is unique in a repository.
type requestName struct{ repository, id string }

// waitingCall is a request that waits, for one call or, if it was sent again,
// for several.
type waitingCall struct {
	request *enhanced.EnhancedLockRequest
	callers int
	// waits is set once the store has its waiter.
	waits bool
	// told is set when a caller has had the lock as its answer.
	told bool
	// gone is set when all callers have left; left is closed when what they have
	// left behind in the store is gone, too.
	gone bool
	left chan struct{}
	// done is closed when lock or err are there.
	done   chan struct{}
	isDone bool
	lock   *enhanced.EnhancedLock
	set    []*enhanced.EnhancedLock // of a set all, lock is the first
	err    error
}

// watched is a resource that calls wait for.
type watched struct {
	calls int
	stop  context.CancelFunc
}

func newWaiting(watch func(ctx context.Context, resource enhanced.ResourceIdentifier)) *waiting {
	return &waiting{
		watch:   watch,
		calls:   make(map[requestName]*waitingCall),
		watched: make(map[enhanced.ResourceIdentifier]*watched),
		byKey:   make(map[string]map[enhanced.ResourceIdentifier]int),
		closed:  make(chan struct{}),
	}
}

func nameOf(r *enhanced.EnhancedLockRequest) requestName {
	return requestName{r.Resource.Namespace, r.ID}
}

// join enters a call. Where the same request is just leaving, it waits for the
// end of that.
func (w *waiting) join(ctx context.Context, r *enhanced.EnhancedLockRequest) (*waitingCall, error) {
	for {
		call, err := w.tryJoin(r)
		if call == nil || !call.gone || err != nil {
			return call, err
		}
		select {
		case <-call.left:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *waiting) tryJoin(r *enhanced.EnhancedLockRequest) (*waitingCall, error) {
	name := nameOf(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isClosed {
		return nil, enhanced.ErrClosed
	}
	call := w.calls[name]
	switch {
	case call == nil:
		call = &waitingCall{request: r, done: make(chan struct{}), left: make(chan struct{})}
		w.calls[name] = call
		w.count(r.Resource, 1)
	case call.gone:
		return call, nil
	}
	call.callers++
	w.callers.Add(1)
	return call, nil
}

// leave takes a call out that has its answer, or will get none.
func (w *waiting) leave(r *enhanced.EnhancedLockRequest, call *waitingCall, told bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.callers.Done()
	call.told = call.told || told
	if call.callers--; call.callers == 0 {
		w.forget(nameOf(r), call)
	}
}

// leaveToOthers takes a call out if others wait for the same request, and
// reports whether they do.
func (w *waiting) leaveToOthers(call *waitingCall) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call.callers < 2 {
		return false
	}
	call.callers--
	w.callers.Done()
	return true
}

// count counts the requests for a resource.
func (w *waiting) count(resource enhanced.ResourceIdentifier, n int) {
	if resource.Type != enhanced.ResourceTypeProject {
		return
	}
	key := resource.LegacyKey()
	same := w.byKey[key]
	if same == nil {
		same = make(map[enhanced.ResourceIdentifier]int)
		w.byKey[key] = same
	}
	if same[resource] += n; same[resource] > 0 {
		return
	}
	if delete(same, resource); len(same) == 0 {
		delete(w.byKey, key)
	}
}

// countDetached counts requests for a resource that no call stands for.
func (w *waiting) countDetached(resource enhanced.ResourceIdentifier, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count(resource, n)
}

// desert takes a call out that may leave something behind in the store, and
// reports whether it is the last one of its request. Then the store is cleaned
// up, and forgotten called.
func (w *waiting) desert(r *enhanced.EnhancedLockRequest, call *waitingCall, cleanUp func()) (last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.callers.Done()
	if call.callers--; call.callers > 0 {
		return false
	}
	call.gone = true
	w.work.Go(func() {
		cleanUp()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.forget(nameOf(r), call)
	})
	return true
}

func (w *waiting) forget(name requestName, call *waitingCall) {
	delete(w.calls, name)
	w.count(call.request.Resource, -1)
	close(call.left)
}

// isAlive reports whether a call waits for a request.
func (w *waiting) isAlive(name requestName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := w.calls[name]
	return call != nil && !call.gone
}

// answer ends the wait of a request.
func (w *waiting) answer(name requestName, lock *enhanced.EnhancedLock, err error) {
	w.answerSet(name, lock, nil, err)
}

// answerSet is answer for a set, of which lock is the first.
func (w *waiting) answerSet(name requestName, lock *enhanced.EnhancedLock, set []*enhanced.EnhancedLock, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call := w.calls[name]; call != nil && !call.isDone {
		call.isDone, call.lock, call.set, call.err = true, lock, set, err
		close(call.done)
	}
}

// requestOf returns a request that a call waits for, nil when none does.
func (w *waiting) requestOf(name requestName) *enhanced.EnhancedLockRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call := w.calls[name]; call != nil && !call.isDone {
		return call.request
	}
	return nil
}

// unclaimed is the lock that a request has got and no caller was told of.
func (w *waiting) unclaimed(call *waitingCall) *enhanced.EnhancedLock {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call.told {
		return nil
	}
	return call.lock
}

// setOf returns the locks that a set has got.
func (w *waiting) setOf(name requestName) []*enhanced.EnhancedLock {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call := w.calls[name]; call != nil {
		return call.set
	}
	return nil
}

// result is the caller's own copy of what a request got. It is called once done
// is closed.
func (c *waitingCall) result() (acquisition, error) {
	if c.err != nil {
		return acquisition{}, c.err
	}
	a := acquisition{lock: copyOf(c.lock), granted: true}
	for _, lock := range c.set {
		a.set = append(a.set, copyOf(lock))
	}
	return a, nil
}

func copyOf(granted *enhanced.EnhancedLock) *enhanced.EnhancedLock {
	lock, original := *granted, *granted.OriginalLock
	lock.OriginalLock, lock.Metadata = &original, maps.Clone(lock.Metadata)
	if lock.ExpiresAt != nil {
		expires := *lock.ExpiresAt
		lock.ExpiresAt = &expires
	}
	return &lock
}

// queued says that the store has the waiter of a call.
func (w *waiting) queued(call *waitingCall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	call.waits = true
}

// unanswered returns the requests that wait for a resource.
func (w *waiting) unanswered(resource enhanced.ResourceIdentifier) (names []requestName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, call := range w.calls {
		if call.request.Resource == resource && call.waits && !call.isDone && !call.gone {
			names = append(names, name)
		}
	}
	return names
}

// look has a resource watched until stop is called.
func (w *waiting) look(resource enhanced.ResourceIdentifier) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.watched[resource]
	if one == nil {
		ctx, cancel := context.WithCancel(context.Background())
		one = &watched{stop: cancel}
		w.watched[resource] = one
		w.work.Go(func() { w.watch(ctx, resource) })
	}
	one.calls++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if one.calls--; one.calls == 0 {
			one.stop()
			delete(w.watched, resource)
		}
	}
}

// sharing returns the other resources that are asked for and that stock Atlantis
// takes for the same one.
func (w *waiting) sharing(resource enhanced.ResourceIdentifier) (found []enhanced.ResourceIdentifier) {
	if resource.Type != enhanced.ResourceTypeProject {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byKey) == 0 {
		return nil
	}
	for other := range w.byKey[resource.LegacyKey()] {
		if other != resource {
			found = append(found, other)
		}
	}
	return found
}

// pause waits, and reports whether there is a point in going on.
func (w *waiting) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.closed:
		return false
	}
}

// close ends all waits, and returns when they and all goroutines have ended.
func (w *waiting) close() {
	w.mu.Lock()
	if !w.isClosed {
		w.isClosed = true
		close(w.closed)
	}
	w.mu.Unlock()
	w.callers.Wait()
	w.work.Wait()
}
