package enhanced

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/runatlantis/atlantis/server/events/models"
)

// internalNamespace is the repository of what managers lock for themselves.
const internalNamespace = "atlantis-locks"

// detectorResource is held by the manager that looks for deadlocks.
func detectorResource() ResourceIdentifier {
	return ResourceIdentifier{Type: ResourceTypeGlobal, Namespace: internalNamespace, Name: "deadlock-detector"}
}

// deadlockWatch looks for deadlocks, for one manager. Of all managers of a store
// one at a time does: the one that has the lease. It is used by one goroutine.
type deadlockWatch struct {
	manager  *EnhancedLockManager
	store    DeadlockStore
	owner    string
	resolver *deadlock.Resolver
	// onlyReports says that the store ends no deadlocks.
	onlyReports bool
	lease       detectorLease
	// reported are the cycles that were there at the last look and that nobody is
	// taken out of: they are reported once.
	reported, found map[string]bool
}

// warnOfDeadlockOptions says which options the backend can't follow.
func (m *EnhancedLockManager) warnOfDeadlockOptions() {
	config := m.state.Load().config
	if _, can := m.backend.(DeadlockStore); can {
		return
	}
	if config.DeadlockPrevention {
		m.logger.Warn("deadlock_prevention: true changes nothing, this backend can't prevent deadlocks yet")
	}
	if config.EnableDeadlockDetection {
		m.logger.Warn("enable_deadlock_detection: true only reports deadlocks, this backend can't end them yet")
	}
}

// listedWaits looks for deadlocks in what any backend lists. It ends none: between
// a look and a cancellation the cycle could have gone.
type listedWaits struct{ Backend }

// WaitForGraph returns who waits for whom. See [DeadlockStore].
func (l listedWaits) WaitForGraph(ctx context.Context) (*deadlock.Graph, error) {
	graph := deadlock.NewGraph()
	status, err := l.GetQueueStatus(ctx)
	if err != nil || status.Size == 0 {
		return graph, err
	}
	locks, err := l.ListLocks(ctx)
	if err != nil {
		return nil, err
	}
	for _, lock := range locks {
		graph.Hold(lock.Owner, FormatGraphResource(lock.Resource))
	}
	for _, r := range status.PendingRequests {
		graph.Wait(deadlock.Waiter{
			Owner: r.Owner().String(), Resource: FormatGraphResource(r.Resource), Request: r.ID,
			Priority: int(r.Priority), Since: r.RequestedAt,
		})
	}
	return graph, nil
}

// EndDeadlock only says what the deadlock is. See [DeadlockStore].
func (l listedWaits) EndDeadlock(_ context.Context, ending DeadlockEnding) (*DeadlockReport, error) {
	return NewDeadlockReport(DeadlockFound, PolicyNone, ending.Cycle, nil)
}

// watchDeadlocks looks for deadlocks after each DeadlockCheckInterval until ctx
// ends, while EnableDeadlockDetection is set. A new interval counts from the last look.
func (m *EnhancedLockManager) watchDeadlocks(ctx context.Context) {
	store, can := m.backend.(DeadlockStore)
	if !can {
		store = listedWaits{m.backend}
	}
	w := &deadlockWatch{manager: m, store: store, onlyReports: !can, owner: "deadlock-detector-" + uuid.NewString()}
	w.lease.backend = m.backend
	defer w.lease.end(ctx)
	timer := time.NewTimer(m.state.Load().config.DeadlockCheckInterval)
	defer timer.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.updated:
			timer.Reset(time.Until(last.Add(m.state.Load().config.DeadlockCheckInterval)))
			continue
		case <-timer.C:
		}
		config := m.state.Load().config
		if !config.EnableDeadlockDetection {
			w.lease.end(ctx)
		} else if err := w.look(ctx, config); err != nil {
			m.logUnlessStopping(ctx, "%v", err)
		}
		last = time.Now()
		timer.Reset(config.DeadlockCheckInterval)
	}
}

// look looks once, if this manager is the one to do so.
func (w *deadlockWatch) look(ctx context.Context, config *EnhancedConfig) error {
	term, cancel, err := w.lease.take(ctx, w.owner, config)
	if err != nil || term == nil {
		return err
	}
	defer cancel()
	if policy := deadlock.Policy(config.ResolutionPolicy); w.resolver == nil || w.resolver.Policy() != policy {
		if w.resolver, err = deadlock.NewResolver(policy, rand.Uint64()); err != nil {
			return err
		}
	}
	detector, err := deadlock.NewDetector(deadlock.Options{
		Snapshot: w.store.WaitForGraph,
		Resolver: w.resolver,
		Act:      func(ctx context.Context, found deadlock.Deadlock) error { return w.end(ctx, found, config) },
	})
	if err != nil {
		return err
	}
	w.found = make(map[string]bool)
	_, err = detector.Check(term)
	w.reported = w.found
	return err
}

// end has the store end a deadlock, which looks at it again first.
func (w *deadlockWatch) end(ctx context.Context, found deadlock.Deadlock, config *EnhancedConfig) error {
	if found.Victim == nil || w.onlyReports {
		name := found.Cycle.String()
		w.found[name] = true
		if w.reported[name] {
			return nil
		}
	}
	report, err := w.store.EndDeadlock(ctx, DeadlockEnding{
		Cycle: found.Cycle, Victim: found.Victim, Policy: string(found.Policy), ReleaseHeld: config.DeadlockReleaseHeld,
	})
	if report == nil {
		return err
	}
	w.manager.logger.Warn("deadlock, %s: %v", report.Outcome, report)
	if w.onlyReports {
		// The store's log, which has the others, has no record of it.
		first := report.Cycle[0]
		record := LogRecord{
			Time: time.Now(), Type: EventDeadlock, Resource: first.Resource, Waiter: first.Owner,
			Actor: SystemStore, Cause: CauseDeadlock, Deadlock: report,
		}
		w.manager.publish(&ManagerEvent{LockEvent: *record.Event()})
	}
	return err
}

// detectorLease is the right to look for deadlocks.
type detectorLease struct {
	backend Backend
	lockID  string
	// until is when it ends at the latest, by the local clock.
	until time.Time
}

// take returns a context that ends before the lease does, nil where another
// manager has it.
func (l *detectorLease) take(ctx context.Context, owner string, config *EnhancedConfig) (term context.Context, cancel context.CancelFunc, err error) {
	// Long enough for a few looks, so that it is not written with each of them.
	length := min(max(5*config.DeadlockCheckInterval, time.Second), config.MaxTimeout)
	now := time.Now() // before the store counts from
	if err := l.keep(ctx, now, length); err != nil {
		return nil, nil, err
	}
	if l.lockID == "" {
		lock, acquired, err := l.backend.TryAcquireLock(ctx, &EnhancedLockRequest{
			Resource: detectorResource(), User: models.User{Username: owner}, Timeout: length,
		})
		if err != nil || !acquired {
			return nil, nil, err
		}
		l.lockID, l.until = lock.ID, now.Add(length)
	}
	// A margin for clocks that don't run equally fast.
	term, cancel = context.WithDeadline(ctx, l.until.Add(-length/10))
	return term, cancel, nil
}

// keep looks whether the lease is still there, and extends one that is half over.
func (l *detectorLease) keep(ctx context.Context, now time.Time, length time.Duration) (err error) {
	switch {
	case l.lockID == "":
		return nil
	case l.until.Sub(now) >= length/2:
		_, err = l.backend.GetLock(ctx, l.lockID)
	default:
		if err = l.backend.RefreshLock(ctx, l.lockID, length); err == nil {
			l.until = now.Add(length)
		}
	}
	if errors.Is(err, ErrLockExpired) || errors.Is(err, ErrLockNotFound) {
		l.lockID, err = "", nil // anybody may have it
	}
	return err
}

// end gives the lease back. Where that fails, it runs out.
func (l *detectorLease) end(ctx context.Context) {
	if l.lockID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.backend.ReleaseLock(ctx, l.lockID)
	l.lockID = ""
}
