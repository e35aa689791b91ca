package enhanced

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// followedEvents are those after which the legacy database may have to hold
// something else.
func followedEvents() []string {
	return []string{
		EventAcquired, EventReleased, EventTimeout, EventTransferred, EventAdopted, EventConflict, EventGranted, EventClaimed,
		EventClaimExpired, EventReserved, EventReservationEnded, EventRepaired, EventCaughtUp,
	}
}

// subscribe begins to follow the store's log, from now on, in place of what was
// followed before.
func (f *fallback) subscribe(ctx context.Context) error {
	following, unfollow := context.WithCancel(f.ctx)
	stop := context.AfterFunc(ctx, unfollow)
	events, err := f.store.backend.Subscribe(following, followedEvents())
	if !stop() && err == nil {
		err = contextError(ctx.Err())
	}
	if err != nil {
		unfollow()
		return err
	}
	f.mu.Lock()
	f.unfollow()
	f.events, f.unfollow = events, unfollow
	f.mu.Unlock()
	select {
	case f.subscribed <- struct{}{}:
	default: // a signal is waiting already
	}
	return nil
}

// run follows the store's log, notices when the store fails, and when it is back.
func (f *fallback) run() {
	defer close(f.done)
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.unfollow()
	}()
	ticker := time.NewTicker(fallbackTick)
	defer ticker.Stop()
	var events, followed <-chan *LockEvent
	next := time.Now()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.subscribed:
			f.mu.Lock()
			events, followed = f.events, f.events
			f.mu.Unlock()
		case event, open := <-events:
			if !open {
				if events = nil; !f.isCurrent(followed) {
					continue // another has taken its place
				}
				f.lost(errors.New("the store has ended the subscription to its log"))
				next = time.Now()
				continue
			}
			f.handle(event)
		case <-ticker.C:
			if time.Now().Before(next) {
				continue
			}
			pause, goesOn := f.look()
			if !goesOn {
				return
			}
			next = time.Now().Add(pause)
		}
	}
}

func (f *fallback) isCurrent(events <-chan *LockEvent) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events == events
}

// lost notes that the legacy database may lack something. What is already known
// to be wrong stays.
func (f *fallback) lost(reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason == nil && f.route == routeBoth {
		f.mark, f.reason = time.Time{}, reason
	}
}

// handle follows one event of the store.
func (f *fallback) handle(event *LockEvent) {
	switch {
	case event.Type == EventCaughtUp:
		f.mu.Lock()
		if f.route == routeBoth && f.reason == nil && event.Timestamp.After(f.mark) {
			f.mark = event.Timestamp
		}
		f.mu.Unlock()
		return
	case event.Type == EventSkipped:
		f.lost(errors.New("records of the store's log are gone that were not read"))
		return
	case event.Type == EventReserved, event.Type == EventTimeout && event.Metadata["reason"] == ReasonUncleanRelease,
		event.Resource.Type != ResourceTypeProject:
		return // what is reserved stays with its last owner
	}
	ctx, cancel := context.WithTimeout(f.ctx, f.store.state.Load().config.OperationTimeout)
	defer cancel()
	if f.gate.Acquire(ctx, 1) != nil {
		f.fell(event.Resource, contextError(ctx.Err()))
		return
	}
	defer f.gate.Release(1)
	f.refollow(ctx, event.Resource, event)
}

// agrees reports whether the legacy database has what an event says: most are of
// this process's own calls. A later event of the resource comes after it.
func (f *fallback) agrees(event *LockEvent) bool {
	record, err := f.legacy.GetLock(event.Resource.Project(), event.Resource.Workspace)
	if err != nil {
		return false
	}
	switch event.Type {
	case EventAcquired, EventTransferred, EventAdopted, EventGranted, EventClaimed:
		return record != nil && isRecordOf(*record, &EnhancedLock{Resource: event.Resource, Owner: event.Owner})
	case EventReleased, EventTimeout, EventClaimExpired:
		return record == nil
	default:
		return false
	}
}

// look does what is due, and says when to look again; false when there is nothing
// to look after.
func (f *fallback) look() (pause time.Duration, goesOn bool) {
	f.mu.Lock()
	to, reason, silence := f.route, f.reason, time.Since(f.mark)
	behind := slices.Collect(maps.Values(f.behind))
	f.mu.Unlock()
	switch {
	case to == routeStore:
		return 0, false
	case to == routeLegacy:
		if f.ask() == nil {
			f.tryReconcile()
		}
		return 0, true
	case to == routeStart:
		f.tryReconcile()
	case reason != nil:
		if f.tryReconcile(); f.status().State != FallbackReady {
			return fallbackLag, true // it takes more than another look
		}
	case silence > fallbackSilence:
		if start := time.Now(); f.ctx.Err() == nil {
			if err := f.ask(); isStoreFailure(err) && f.ctx.Err() == nil {
				f.open(start, err)
			}
		}
	}
	if f.isAnsweringAlone() {
		return 0, true
	}
	for _, resource := range behind {
		ctx, cancel := context.WithTimeout(f.ctx, fallbackAsk)
		if f.gate.Acquire(ctx, 1) == nil {
			f.refollow(ctx, resource, nil)
			f.gate.Release(1)
		}
		cancel()
	}
	return time.Second, true
}

// ask asks the store whether it is there.
func (f *fallback) ask() error {
	ctx, cancel := context.WithTimeout(f.ctx, fallbackAsk)
	defer cancel()
	err := f.store.backend.HealthCheck(ctx)
	if errors.Is(err, ErrClosed) {
		f.cancel()
	}
	return err
}

// tryReconcile is reconcile from the goroutine.
func (f *fallback) tryReconcile() {
	ctx, cancel := context.WithTimeout(f.ctx, reconcileTime)
	defer cancel()
	needed := func() bool { return f.route == routeStart || f.route == routeLegacy || f.reason != nil }
	switch err := f.reconcile(ctx, needed); {
	case err == nil, f.ctx.Err() != nil:
	case errors.Is(err, ErrClosed):
		f.cancel() // the store will not come back
	default:
		f.logger.Warn("making the legacy database and the store agree: %v", err)
	}
}

// told follows a change that this process has made in the store. Where it can't,
// the resource is behind.
func (f *fallback) told(ctx context.Context, resource ResourceIdentifier) {
	to, leave, err := f.enter(ctx)
	if err != nil {
		f.fell(resource, err)
		return
	}
	defer leave()
	if to == routeBoth {
		f.refollow(ctx, resource, nil)
	}
}
