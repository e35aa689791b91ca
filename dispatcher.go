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
		go d.run(d.idle)
	}
}

func (d *dispatcher) run(idle chan struct{}) {
	defer close(idle)
	for {
		d.mu.Lock()
		if len(d.waiting) == 0 {
			d.running = false
			d.waiting = nil
			d.mu.Unlock()
			return
		}
		event := d.waiting[0]
		d.waiting[0] = nil
		d.waiting = d.waiting[1:]
		d.delivered++
		callbacks, ctx := d.callbacks, d.ctx
		d.mu.Unlock()
		for _, callback := range callbacks {
			d.call(ctx, callback, event)
		}
	}
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
