package enhanced

import (
	"context"
	"errors"
	"sync"
	"time"
)

// scanInterval bounds how late a deadline is noticed that no event announced.
const scanInterval = 30 * time.Second

// watchedEvents are those that change a deadline, or that callbacks are told of.
func watchedEvents() []string {
	return []string{
		EventAcquired, EventGranted, EventAdopted, EventRefreshed, EventTransferred, EventTimeout,
		EventQueued, EventCancelled, EventQueueTimeout, EventMoved,
		EventClaimed, EventClaimExpired, EventReserved, EventReservationEnded,
		EventDeadlock,
	}
}

// isToldByStore reports whether callbacks are told of events of a type from the
// store's log: what no call of this manager has as its answer.
func isToldByStore(eventType string) bool {
	switch eventType {
	case EventTimeout, EventGranted, EventClaimed, EventClaimExpired, EventReserved:
		return true
	default:
		return IsQueueEvent(eventType)
	}
}

// Start begins the manager's background work: ending leases as soon as they
// are due, so that their events come in time, and looking for deadlocks. Locks
// are correct without it.
// The work goes on until [EnhancedLockManager.Stop] or until ctx ends.
// Starting a started manager does nothing; a stopped one can be started again.
func (m *EnhancedLockManager) Start(ctx context.Context) error {
	m.lifecycle.Lock()
	defer m.lifecycle.Unlock()
	if _, err := m.ready(ctx); err != nil {
		return err
	}
	if m.cancel != nil {
		select {
		case <-m.done:
			// The context of an earlier Start has ended the work.
			m.cancel()
		default:
			return nil
		}
	}
	background, cancel := context.WithCancel(ctx)
	events, err := m.backend.Subscribe(background, watchedEvents())
	if err != nil {
		cancel()
		return err
	}
	m.warnOfDeadlockOptions()
	m.cancel, m.done = cancel, make(chan struct{})
	done := m.done
	go func() {
		defer close(done)
		var watching sync.WaitGroup
		watching.Go(func() { m.watchDeadlocks(background) })
		m.run(background, events)
		cancel()
		watching.Wait()
	}()
	return nil
}

// Stop ends the background work and waits until it has ended and the events
// that wait for callbacks are delivered, or until ctx ends. Locks stay as they
// are. Stopping a manager that is not started does nothing.
func (m *EnhancedLockManager) Stop(ctx context.Context) error {
	m.lifecycle.Lock()
	defer m.lifecycle.Unlock()
	if m.cancel != nil {
		m.cancel()
		select {
		case <-m.done:
			m.cancel, m.done = nil, nil
		case <-ctx.Done():
			return contextError(ctx.Err())
		}
	}
	if err := m.events.drain(ctx); err != nil {
		return &LockError{Code: ErrCodeTimeout, Message: "stopped before all events were delivered", Err: err}
	}
	return nil
}

// run ends leases when they are due. It learns of deadlines from the store's
// events and, in case one was missed, from a scan.
func (m *EnhancedLockManager) run(ctx context.Context, events <-chan *LockEvent) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	due := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case event, open := <-events:
			if !open {
				m.logUnlessStopping(ctx, "the store ended its subscription; leases are ended by whoever comes next")
				return
			}
			if isToldByStore(event.Type) {
				m.publishOnce(&ManagerEvent{LockEvent: *event})
			}
			if at, ok := expiry(event); ok && at.Before(due) {
				due = at
				timer.Reset(time.Until(due))
			}
		case <-timer.C:
			wait := m.settle(ctx)
			due = time.Now().Add(wait)
			timer.Reset(wait)
		}
	}
}

// settle ends the leases that are due and returns when to look again.
func (m *EnhancedLockManager) settle(ctx context.Context) time.Duration {
	if _, err := m.backend.CleanupExpiredLocks(ctx); err != nil {
		m.logUnlessStopping(ctx, "ending leases: %v", err)
		return time.Second
	}
	wait, found, err := m.backend.NextDeadline(ctx)
	if err != nil {
		m.logUnlessStopping(ctx, "looking for the next deadline: %v", err)
		return time.Second
	}
	if !found {
		return scanInterval
	}
	// A lease can have become due since; a floor keeps an overdue record that
	// cannot be settled from spinning.
	return min(max(wait, time.Millisecond), scanInterval)
}

func (m *EnhancedLockManager) logUnlessStopping(ctx context.Context, format string, args ...any) {
	if !errors.Is(ctx.Err(), context.Canceled) {
		m.logger.Err(format, args...)
	}
}

// expiry returns when, by the local clock, the lease ends that the event is
// about. The store's clock gives the distance, never the time.
func expiry(event *LockEvent) (time.Time, bool) {
	expires, err := time.Parse(time.RFC3339Nano, event.Metadata["expires_at"])
	if err != nil {
		return time.Time{}, false
	}
	return time.Now().Add(expires.Sub(event.Timestamp)), true
}

// publishAcquire tells of a call that acquires, by what it has heard of the lock if it
// has it.
func (m *EnhancedLockManager) publishAcquire(request *EnhancedLockRequest, lock *EnhancedLock, heard *heardGrants, acquired bool, err error) {
	if !m.state.Load().config.EnableEvents {
		return // to make an event takes a while
	}
	if err == nil && !acquired {
		err = NewHeldError(request.Resource, lock)
	}
	event := &ManagerEvent{Priority: request.Priority, Err: err}
	event.Resource = request.Resource
	event.Owner = request.Owner().String()
	switch {
	case err == nil:
		event.Type, event.LockID, event.Timestamp = heard.by(lock), lock.ID, lock.AcquiredAt
	case errors.Is(err, ErrBackend), errors.Is(err, ErrOutcomeUnknown):
		event.Type, event.Timestamp = EventFailed, time.Now()
	default:
		event.Type, event.Timestamp = EventRefused, time.Now()
	}
	m.publishOnce(event)
}

// publishRelease tells of a lock that a request has released.
func (m *EnhancedLockManager) publishRelease(lock *EnhancedLock, request ReleaseRequest) {
	if !m.state.Load().config.EnableEvents {
		return
	}
	event := &ManagerEvent{Priority: lock.Priority}
	event.Type, event.LockID, event.Resource = EventReleased, lock.ID, lock.Resource
	event.Owner, event.Timestamp = lock.Owner, time.Now()
	event.Metadata = make(map[string]string)
	if request.Actor != "" && request.Actor != lock.Owner {
		event.Metadata["actor"] = request.Actor
	}
	if request.Force {
		event.Metadata["cause"] = CauseForced
	}
	if request.Reason != "" {
		event.Metadata["reason"] = request.Reason
	}
	m.publish(event)
}

// publishOnce tells of an event that a call and the store's log both tell of.
func (m *EnhancedLockManager) publishOnce(event *ManagerEvent) {
	if m.state.Load().config.EnableEvents && m.told.first(event.Type, event.LockID) {
		m.publish(event)
	}
}

func (m *EnhancedLockManager) publish(event *ManagerEvent) {
	if config := m.state.Load().config; config.EnableEvents {
		m.events.publish(event, config.EventBufferSize)
	}
}
