package enhanced

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/logging"
)

// LockingAdapter is Atlantis' db.Database on this locking system: what Atlantis
// is given in place of its own database. While Enabled is false every method of
// db.Database is a call of the legacy database. Make it with
// [NewLockingAdapter]; all methods are safe for concurrent use.
type LockingAdapter struct {
	manager LockManager
	backend Backend
	legacy  db.Database
	logger  logging.SimpleLogging
	state   atomic.Pointer[configState]
	store   *storeLocks
	member  *member    // nil for an adapter of no fleet
	updates sync.Mutex // serialises UpdateConfiguration
	// under is held for reading by each operation on project locks under way, so that
	// another database decides only when none is.
	under sync.RWMutex
	// noted is set once the legacy database has what legacyIsAlone or legacyIsLeft note.
	noted atomic.Bool

	fallbackMu sync.Mutex // protects below
	fallback   *fallback  // nil while there is none
	closed     bool
	warned     bool // that there is none
}

var _ db.Database = (*LockingAdapter)(nil)

// NewLockingAdapter returns an adapter. It does not touch any store. The
// backend must be the manager's. The legacy database serves everything while
// Enabled is false, and pull status and command locks always, and it can be the
// fallback for a store that fails, see [LockingAdapter.Fallback]; it may be nil,
// then the backend serves those, see [StatusStore]. A nil config means
// [DefaultConfig]. With an invalid config, or without a manager or a backend,
// every call but those of the legacy database answers INVALID_REQUEST.
func NewLockingAdapter(manager LockManager, backend Backend, config *EnhancedConfig, legacy db.Database, logger logging.SimpleLogging) *LockingAdapter {
	a := &LockingAdapter{
		manager: manager,
		backend: backend,
		legacy:  steady(legacy, backend),
		logger:  LoggerOrNoop(logger),
	}
	a.store = &storeLocks{manager: manager, backend: backend, state: &a.state}
	a.store.repeat.state = &a.state
	state := newConfigState(config)
	if manager == nil {
		state.err = errors.Join(state.err, NewInvalidError("manager is nil; pass the result of NewEnhancedLockManager"))
	}
	if backend == nil {
		state.err = errors.Join(state.err, NewInvalidError("backend is nil; pass one of package backends"))
	}
	if state.err == nil {
		a.member, state.err = newMember(a, state.config)
	}
	a.state.Store(state)
	return a
}

// Manager returns the manager that the adapter was made with.
func (a *LockingAdapter) Manager() LockManager { return a.manager }

// IsEnhancedModeEnabled reports whether locks are taken in the enhanced store.
// It follows UpdateConfiguration.
func (a *LockingAdapter) IsEnhancedModeEnabled() bool {
	return a.state.Load().config.Enabled
}

// UpdateConfiguration replaces the configuration of the adapter, its manager
// and its backend. Calls in progress finish with the one they started with; where
// others decide on project locks from then on (Enabled, the fallback) it waits for
// those on them, and has new ones wait meanwhile. A call that waits for a lock is not
// waited for. With Enabled: false the legacy database is given what the store holds
// first, if there is a fallback. An invalid configuration is refused with
// INVALID_REQUEST and changes nothing, and so is: Enabled: false where there is no
// legacy database to go back to; another AdapterName; no fallback while it is in use;
// and Enabled: true without the fallback after the legacy database decided alone, whose
// grants the store would not get.
func (a *LockingAdapter) UpdateConfiguration(config *EnhancedConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if a.manager == nil || a.backend == nil {
		return a.state.Load().err
	}
	if err := a.servedBy(config); err != nil {
		return err
	}
	a.updates.Lock()
	defer a.updates.Unlock()
	if before := a.state.Load().config.AdapterName; config.AdapterName != before {
		return NewInvalidError("adapter_name: %q can't become %q while the adapter is in use", before, config.AdapterName)
	}
	if before := a.state.Load().config; before.Enabled != config.Enabled || a.hasFallback(before) != a.hasFallback(config.WithDefaults()) {
		a.under.Lock()
		defer a.under.Unlock()
	}
	// Calls that were under way may have used it.
	if err := a.mayEndFallback(config.WithDefaults()); err != nil {
		return err
	}
	if err := a.replaceConfiguration(config); err != nil {
		return err
	}
	a.endFallback(config.WithDefaults())
	return nil
}

// replaceConfiguration is called with a.updates held.
func (a *LockingAdapter) replaceConfiguration(config *EnhancedConfig) error {
	// Who decides follows from PreserveLegacyFormat, see inOneFile.
	defer a.member.pause()()
	if err := a.manager.UpdateConfiguration(config); err != nil {
		return err
	}
	a.state.Store(newConfigState(config))
	return nil
}

// AddEventCallback registers a callback for the manager's events.
func (a *LockingAdapter) AddEventCallback(callback EventCallback) {
	if a.manager != nil {
		a.manager.AddEventCallback(callback)
	}
}

// Mode returns what the adapter works by: the fleet as it last saw it, and in it
// which databases decide. It joins the fleet if that is not done yet. INVALID_REQUEST
// without an AdapterName.
func (a *LockingAdapter) Mode(ctx context.Context) (Fleet, error) {
	state := a.state.Load()
	switch {
	case state.err != nil:
		return Fleet{}, state.err
	case a.member == nil:
		return Fleet{}, NewInvalidError("adapter_name: \"\"; an adapter without a name takes part in no fleet")
	}
	fleet, leave, err := a.member.enter(ctx)
	if err != nil {
		return Fleet{}, err
	}
	defer leave()
	seen := *fleet
	seen.Adapters = slices.Clone(seen.Adapters)
	return seen, nil
}

// LockWithPriority locks a project for a user. See [LockManager].
func (a *LockingAdapter) LockWithPriority(ctx context.Context, project models.Project, workspace string, user models.User, priority Priority) (*models.ProjectLock, error) {
	return a.lockInStore(ctx, project, workspace, user, func() (*models.ProjectLock, error) {
		return a.manager.LockWithPriority(ctx, project, workspace, user, priority)
	})
}

// LockWithTimeout locks a project for a user for a time. See [LockManager].
func (a *LockingAdapter) LockWithTimeout(ctx context.Context, project models.Project, workspace string, user models.User, timeout time.Duration) (*models.ProjectLock, error) {
	return a.lockInStore(ctx, project, workspace, user, func() (*models.ProjectLock, error) {
		return a.manager.LockWithTimeout(ctx, project, workspace, user, timeout)
	})
}

// GetQueuePosition returns a place in the queue. See [LockManager].
func (a *LockingAdapter) GetQueuePosition(ctx context.Context, project models.Project, workspace string) (int, error) {
	if err := a.state.Load().err; err != nil {
		return 0, err
	}
	return a.manager.GetQueuePosition(ctx, project, workspace)
}

// GetEnhancedStats returns the manager's statistics, also while Enabled is
// false. They are never nil.
func (a *LockingAdapter) GetEnhancedStats(ctx context.Context) (*BackendStats, error) {
	if err := a.state.Load().err; err != nil {
		return &BackendStats{}, err
	}
	stats, err := a.manager.GetStats(ctx)
	if stats != nil {
		stats.Retries += a.store.repeat.retries.Load()
		stats.Fallback = a.Fallback()
	}
	return stats, err
}

// HealthCheck returns nil when the enhanced store answers, also while Enabled
// is false. While the fallback is open it answers a BACKEND_ERROR that says since
// when.
func (a *LockingAdapter) HealthCheck(ctx context.Context) error {
	if err := a.state.Load().err; err != nil {
		return err
	}
	if s := a.Fallback(); s.State == FallbackOpen {
		return NewBackendError("degraded: fallback open since "+s.Since.Format(time.RFC3339), errors.New(s.Reason))
	}
	return a.manager.GetHealth(ctx)
}

// requireEnabled answers the enhanced methods while the legacy database
// decides: a lock that it does not know would be no lock.
func (a *LockingAdapter) requireEnabled() error {
	state := a.state.Load()
	if state.err != nil {
		return state.err
	}
	if !state.config.Enabled {
		return NewInvalidError("enabled: false; locks with a priority or a lease need enhanced locking switched on")
	}
	return nil
}

// lockInStore takes a user's lock, which only the store can hold: so it must be the
// one that decides.
func (a *LockingAdapter) lockInStore(ctx context.Context, project models.Project, workspace string, user models.User, take func() (*models.ProjectLock, error)) (*models.ProjectLock, error) {
	if err := a.requireEnabled(); err != nil {
		return nil, err
	}
	if err := a.requireStore(ctx); err != nil {
		return nil, err
	}
	lock, err := take()
	if err != nil {
		return nil, err
	}
	if err := a.keepTaken(ctx, takenLock{resource: ProjectResource(project, workspace), owner: UserOwner(user.Username)}); err != nil {
		return nil, err
	}
	return lock, nil
}

// requireStore answers INVALID_REQUEST unless the store alone decides.
func (a *LockingAdapter) requireStore(ctx context.Context) error {
	if a.member == nil {
		return nil
	}
	fleet, leave, err := a.member.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if fleet.Deciders().Legacy {
		return NewInvalidError("mode %q: the legacy database decides, which has no locks of users; wait until all adapters are in mode %q", fleet.Mode, ModeFull)
	}
	return nil
}

// servedBy returns an error if nobody would decide with the configuration.
func (a *LockingAdapter) servedBy(config *EnhancedConfig) error {
	if !config.Enabled && a.legacy == nil {
		return NewInvalidError("enabled: false, and there is no legacy database; one of them must decide")
	}
	return nil
}

// Ping checks the databases that serve this adapter: while the fallback is open,
// or can be opened because the store does not answer, the legacy database.
func (a *LockingAdapter) Ping() error {
	if err := a.servedBy(a.state.Load().config); err != nil {
		return err
	}
	if a.legacy != nil {
		if err := a.legacy.Ping(); err != nil || !a.IsEnhancedModeEnabled() {
			return err
		}
	}
	ctx, cancel := a.operationContext()
	defer cancel()
	start := time.Now()
	err := a.HealthCheck(ctx)
	if f := a.runningFallback(); f != nil && isStoreFailure(err) && f.open(start, err) {
		return nil
	}
	return err
}

// Close ends the fallback, stops the manager, closes the backend, where they can
// be, and the legacy database.
func (a *LockingAdapter) Close() error {
	ctx, cancel := a.operationContext()
	defer cancel()
	a.closeFallback()
	var errs []error
	if a.member != nil {
		errs = append(errs, a.member.stop(ctx))
	}
	if stopper, ok := a.manager.(interface {
		Stop(ctx context.Context) error
	}); ok {
		errs = append(errs, stopper.Stop(ctx))
	}
	if closer, ok := a.backend.(io.Closer); ok {
		errs = append(errs, closer.Close())
	}
	if a.legacy != nil {
		errs = append(errs, a.legacy.Close())
	}
	return errors.Join(errs...)
}

// operationContext bounds what Atlantis calls without a context.
func (a *LockingAdapter) operationContext() (context.Context, context.CancelFunc) {
	return a.store.operationContext()
}
