package enhanced

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"

	"github.com/runatlantis/atlantis/server/logging"
)

// dispatcher hands events to callbacks apart from the path that caused them.
// Its goroutine exists only while events wait, so a manager that is never
// started or stopped leaves none behind.
type dispatcher struct {
	logger logging.SimpleLogging

	mu        sync.Mutex // protects all below
	callbacks []EventCallback
	waiting   []*ManagerEvent
	running   bool
	idle      chan struct{} // closed when the goroutine has ended
	delivered int64
	dropped   int64
	ctx       context.Context //nolint:containedctx // the callbacks' context, ended by stop
	cancel    context.CancelCauseFunc
}

func newDispatcher(logger logging.SimpleLogging) *dispatcher {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &dispatcher{logger: logger, ctx: ctx, cancel: cancel}
}

func (d *dispatcher) add(callback EventCallback) {
	if callback == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.callbacks = append(d.callbacks, callback)
}

// publish queues the event, or counts it as dropped when limit events wait
// already. It never blocks on a callback.
func (d *dispatcher) publish(event *ManagerEvent, limit int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.callbacks) == 0 {
		return
	}
	if len(d.waiting) >= limit {
		d.dropped++
		return
	}
	d.waiting = append(d.waiting, event)
	if !d.running {
		if d.ctx.Err() != nil {
			d.ctx, d.cancel = context.WithCancelCause(context.Background())
		}
		d.running = true
		d.idle = make(chan struct{})
		go d.run(delivery{}, d.idle)
	}
}

// delivery is an event and the callbacks that have not had it yet.
type delivery struct {
	ctx       context.Context //nolint:containedctx // that of the callbacks
	event     *ManagerEvent
	callbacks []EventCallback
}

// run hands the waiting events to the callbacks, after what is left of an
// earlier delivery, and closes idle when nothing waits.
func (d *dispatcher) run(rest delivery, idle chan struct{}) {
	done := false
	defer func() {
		if done {
			close(idle)
			return
		}
		// A callback has called runtime.Goexit, as FailNow of a test does. That
		// can't be stopped, so another goroutine goes on behind it.
		d.logger.Err("event callback ended its goroutine on %s of %s", rest.event.Type, rest.event.Resource)
		go d.run(rest, idle)
	}()
	for !done {
		for len(rest.callbacks) > 0 {
			callback := rest.callbacks[0]
			rest.callbacks = rest.callbacks[1:]
			d.call(rest.ctx, callback, rest.event)
		}
		rest, done = d.next()
	}
}

// next takes the event that has waited longest; done says that there is none,
// and that the goroutine is about to end.
func (d *dispatcher) next() (next delivery, done bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		d.running = false
		d.waiting = nil
		return delivery{}, true
	}
	event := d.waiting[0]
	d.waiting[0] = nil
	d.waiting = d.waiting[1:]
	d.delivered++
	return delivery{d.ctx, event, d.callbacks}, false
}

func (d *dispatcher) call(ctx context.Context, callback EventCallback, event *ManagerEvent) {
	defer func() {
		if r := recover(); r != nil {
			d.logger.Err("event callback panicked on %s of %s: %v\n%s", event.Type, event.Resource, r, debug.Stack())
		}
	}()
	copied := *event
	callback(ctx, &copied)
}

// counts returns how many events were handed over and how many were dropped.
func (d *dispatcher) counts() (delivered, dropped int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.delivered, d.dropped
}

// errStopping is the cause with which the callbacks' context ends.
var errStopping = errors.New("the manager is stopping")

// drain ends the callbacks' context, and waits until all waiting events are
// delivered or ctx ends. Events that are published later get a new context.
func (d *dispatcher) drain(ctx context.Context) error {
	d.mu.Lock()
	d.cancel(errStopping)
	idle, running := d.idle, d.running
	d.mu.Unlock()
	if !running {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
