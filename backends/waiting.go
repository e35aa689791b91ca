package backends

import (
	"context"
	"maps"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// waiting has the blocked calls of this process, by request. A waiter in a store
// is alive while its call is in here.
type waiting struct {
	// watch is called in a goroutine of its own for each resource that calls
	// wait for, until its context ends.
	watch func(ctx context.Context, resource enhanced.ResourceIdentifier)

	work sync.WaitGroup // watches, and what calls have left behind

	mu       sync.Mutex // protects all below
	calls    map[requestName]*waitingCall
	watched  map[enhanced.ResourceIdentifier]*watched
	isClosed bool
	closed   chan struct{}
}

// requestName names a request: its ID is unique in a repository.
type requestName struct{ repository, id string }

// waitingCall is a request that waits, for one call or, if it was sent again,
// for several.
type waitingCall struct {
	callers int
	// done is closed when lock or err, which do not change after, are there.
	done chan struct{}
	lock *enhanced.EnhancedLock
	err  error
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
		closed:  make(chan struct{}),
	}
}

func nameOf(r *enhanced.EnhancedLockRequest) requestName {
	return requestName{r.Resource.Namespace, r.ID}
}

// join enters a call. It answers nil once the store is closed.
func (w *waiting) join(r *enhanced.EnhancedLockRequest) *waitingCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isClosed {
		return nil
	}
	call := w.calls[nameOf(r)]
	if call == nil {
		call = &waitingCall{done: make(chan struct{})}
		w.calls[nameOf(r)] = call
	}
	call.callers++
	one := w.watched[r.Resource]
	if one == nil {
		ctx, stop := context.WithCancel(context.Background())
		one = &watched{stop: stop}
		w.watched[r.Resource] = one
		w.work.Go(func() { w.watch(ctx, r.Resource) })
	}
	one.calls++
	return call
}

// leave takes a call out, and reports whether nobody waits for its request any
// more.
func (w *waiting) leave(r *enhanced.EnhancedLockRequest, call *waitingCall) (last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.watched[r.Resource]
	if one.calls--; one.calls == 0 {
		one.stop()
		delete(w.watched, r.Resource)
	}
	if call.callers--; call.callers > 0 {
		return false
	}
	if w.calls[nameOf(r)] == call {
		delete(w.calls, nameOf(r))
	}
	return true
}

// isAlive reports whether a call waits for a request.
func (w *waiting) isAlive(name requestName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[name] != nil
}

// answer ends the wait of a request.
func (w *waiting) answer(name requestName, lock *enhanced.EnhancedLock, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := w.calls[name]
	if call == nil {
		return
	}
	delete(w.calls, name)
	call.lock, call.err = lock, err
	close(call.done)
}

// result is the caller's own copy of what a request got.
func (c *waitingCall) result() (*enhanced.EnhancedLock, error) {
	if c.err != nil {
		return nil, c.err
	}
	lock, original := *c.lock, *c.lock.OriginalLock
	lock.OriginalLock, lock.Metadata = &original, maps.Clone(lock.Metadata)
	return &lock, nil
}

// behind runs fn in a goroutine that close waits for.
func (w *waiting) behind(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.isClosed {
		w.work.Go(fn)
	}
}

// close ends all waits, and returns when all goroutines have ended.
func (w *waiting) close() {
	w.mu.Lock()
	if !w.isClosed {
		w.isClosed = true
		close(w.closed)
		for _, one := range w.watched {
			one.stop()
		}
	}
	w.mu.Unlock()
	w.work.Wait()
}
