package timeout

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// ErrStopped says that a [TimeoutManager] has been stopped.
var ErrStopped = errors.New("timeout manager is stopped")

// Tick is how exact a [TimeoutManager] is: a callback starts at its deadline or
// up to a tick later, never before. A deadline is at most 146 years away.
const Tick = time.Millisecond

// TimeoutManagerOptions configure a [TimeoutManager]. The zero value works.
type TimeoutManagerOptions struct {
	// MaxRunning bounds the callbacks that run at a time. Callbacks that are due
	// beyond it wait, in the order of their deadlines. Default 64.
	MaxRunning int
	// OnPanic is told of a callback that panicked, with the value and the stack.
	// Others are not affected. It is called on the goroutine of the callback, and
	// must not panic itself. Default nil: panics are swallowed.
	OnPanic func(value any, stack []byte)
}

// TimeoutManager calls back at deadlines. Adding, cancelling and extending a
// timer takes the same time with one timer and with a million: see the source of
// the algorithm at the type wheel. A timer takes 64 bytes. Make it with
// [NewTimeoutManager]; all methods are safe for concurrent use, and for use by
// callbacks, but for Stop.
type TimeoutManager struct { //nolint:revive // the specification names it
	options TimeoutManagerOptions
	epoch   time.Time
	wakeUp  chan struct{}
	looping sync.WaitGroup
	ctx     context.Context // of the callbacks
	cancel  context.CancelFunc

	mu       sync.Mutex // protects all below, and all timers
	wheel    wheel
	due      []*Timer // in the order of their deadlines
	running  int
	idle     chan struct{} // closed when nothing runs; nil until somebody waits
	started  bool
	stopped  bool
	sleeping uint64 // the tick that the loop sleeps to
}

// Timer is one callback of a [TimeoutManager].
type Timer struct {
	manager  *TimeoutManager
	callback func(context.Context)

	state          timerState
	due            uint64
	level, slot    int
	previous, next *Timer
}

type timerState uint8

const (
	timerPending timerState = iota // in the wheel
	timerDue                       // waits for a goroutine
	timerDone                      // started, cancelled, or dropped by Stop
)

// NewTimeoutManager returns a manager without timers. It has no goroutine before
// its first timer. It answers [ErrInvalid] for a negative MaxRunning.
func NewTimeoutManager(options TimeoutManagerOptions) (*TimeoutManager, error) {
	if options.MaxRunning < 0 {
		return nil, fmt.Errorf("%w: MaxRunning %d is negative", ErrInvalid, options.MaxRunning)
	}
	if options.MaxRunning == 0 {
		options.MaxRunning = 64
	}
	m := &TimeoutManager{options: options, epoch: time.Now(), wakeUp: make(chan struct{}, 1)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// After calls callback once, on a goroutine of its own, when d has passed. A
// duration of zero or less is due at the next tick. The context ends when the
// manager is stopped. It answers [ErrInvalid] without a callback, and
// [ErrStopped] after Stop.
func (m *TimeoutManager) After(d time.Duration, callback func(context.Context)) (*Timer, error) {
	if callback == nil {
		return nil, fmt.Errorf("%w: callback is nil", ErrInvalid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil, ErrStopped
	}
	t := &Timer{manager: m, callback: callback}
	m.schedule(t, d)
	if !m.started {
		m.started = true
		m.looping.Go(m.loop)
	}
	return t, nil
}

// Len returns how many timers have not started, been cancelled or been dropped.
func (m *TimeoutManager) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.wheel.size
	for _, t := range m.due {
		if t.state == timerDue {
			n++
		}
	}
	return n
}

// Stop drops all timers, ends the context of the callbacks that run, and waits
// for them, or until ctx ends: then it answers the context's error, and a later
// Stop waits on. No callback starts once Stop was called. A callback that calls
// Stop waits for itself.
func (m *TimeoutManager) Stop(ctx context.Context) error {
	m.mu.Lock()
	m.stopped = true
	m.wheel, m.due = wheel{}, nil
	if m.idle == nil {
		m.idle = make(chan struct{})
		if m.running == 0 {
			close(m.idle)
		}
	}
	idle := m.idle
	m.mu.Unlock()
	m.cancel()
	m.looping.Wait() // it waits for nothing but the mutex
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Cancel reports whether it has kept the callback from being called: false when
// the callback has started, or was cancelled or dropped before. It does not wait
// for a callback that runs.
func (t *Timer) Cancel() bool {
	t.manager.mu.Lock()
	defer t.manager.mu.Unlock()
	return t.take()
}

// Extend makes the callback due when d has passed from now, instead of at its
// deadline so far; that may be earlier, too. It reports false, and changes
// nothing, when the callback has started, or was cancelled or dropped.
func (t *Timer) Extend(d time.Duration) bool {
	t.manager.mu.Lock()
	defer t.manager.mu.Unlock()
	if !t.take() {
		return false
	}
	t.manager.schedule(t, d)
	return true
}

// take makes a timer done that has not started. The manager is locked.
func (t *Timer) take() bool {
	switch {
	case t.state == timerDone || t.manager.stopped:
		return false
	case t.state == timerPending:
		t.manager.wheel.remove(t)
	}
	t.state = timerDone
	return true
}

// schedule makes a timer due in d. The manager is locked.
func (m *TimeoutManager) schedule(t *Timer, d time.Duration) {
	at := time.Since(m.epoch) + min(max(d, 0), longest)
	// Rounded up: never before the deadline.
	t.due = max(tick(at-1)+1, m.wheel.now+1)
	t.state = timerPending
	m.wheel.put(t)
	if t.due < m.sleeping {
		m.sleeping = t.due
		select {
		case m.wakeUp <- struct{}{}:
		default:
		}
	}
}

// longest keeps deadlines far from where a duration overflows: 146 years.
const longest = 1 << 62

// tick is the last tick that has come.
func tick(passed time.Duration) uint64 {
	if passed < 0 {
		return 0
	}
	return uint64(passed / Tick)
}

// loop waits for what is next and starts what is due, until Stop.
func (m *TimeoutManager) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-timer.C:
		case <-m.wakeUp:
		}
		wait, any := m.collect()
		if any {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// collect starts what is due, and returns how long it is until it must look
// again; false if there is nothing.
func (m *TimeoutManager) collect() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sleeping = 1<<64 - 1
	if m.stopped {
		return 0, false
	}
	m.wheel.advance(tick(time.Since(m.epoch)), func(t *Timer) {
		t.state = timerDue
		m.due = append(m.due, t)
	})
	for range min(len(m.due), m.options.MaxRunning-m.running) {
		m.running++
		go m.work()
	}
	next, any := m.wheel.wake()
	if !any {
		return 0, false
	}
	m.sleeping = next
	return time.Until(m.epoch.Add(time.Duration(next) * Tick)), true //nolint:gosec // schedule bounds it
}

// work runs callbacks until none is due.
func (m *TimeoutManager) work() {
	ended := false
	defer func() {
		if !ended { // by the callback: runtime.Goexit
			go m.work()
		}
	}()
	for {
		callback := m.take()
		if callback == nil {
			ended = true
			return
		}
		m.call(callback)
	}
}

// take returns the next callback that is due. Without one it counts the caller
// out and returns nil.
func (m *TimeoutManager) take() func(context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.due) > 0 {
		t := m.due[0]
		m.due[0] = nil
		m.due = m.due[1:]
		if t.state != timerDue {
			continue // cancelled or extended meanwhile
		}
		t.state = timerDone
		return t.callback
	}
	m.due = nil
	m.running--
	if m.running == 0 && m.idle != nil {
		close(m.idle)
	}
	return nil
}

func (m *TimeoutManager) call(callback func(context.Context)) {
	defer func() {
		if value := recover(); value != nil && m.options.OnPanic != nil {
			m.options.OnPanic(value, debug.Stack())
		}
	}()
	callback(m.ctx)
}
