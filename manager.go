package enhanced

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/logging"
)

// EnhancedLockManager is the [LockManager]. It composes a backend with
// validation, defaults and events, and keeps no lock state of its own. Make it
// with [NewEnhancedLockManager]. All methods are safe for concurrent use.
type EnhancedLockManager struct {
	backend Backend
	logger  logging.SimpleLogging
	state   atomic.Pointer[configState]
	events  *dispatcher
	told    toldGrants
	options managerOptions
	repeat  repeater

	updates   sync.Mutex // serialises UpdateConfiguration
	updated   chan struct{}
	lifecycle sync.Mutex // serialises Start and Stop
	cancel    context.CancelFunc
	done      chan struct{}
}

var _ LockManager = (*EnhancedLockManager)(nil)

// configState is a configuration, what is wrong with it and what is made of it,
// swapped as one.
type configState struct {
	config *EnhancedConfig
	err    error
	retry  *timeout.RetryManager
}

func newConfigState(config *EnhancedConfig) *configState {
	if config == nil {
		config = DefaultConfig()
	}
	full := config.WithDefaults()
	return &configState{config: full, err: config.Validate(), retry: newRetry(full)}
}

// ManagerOption configures an [EnhancedLockManager].
type ManagerOption func(*managerOptions)

type managerOptions struct {
	authorize Authorizer
}

// NewEnhancedLockManager returns a manager on backend. It does not touch the
// store. A nil config means [DefaultConfig]. With an invalid config, or
// without a backend, every call answers INVALID_REQUEST naming what is wrong.
// Operations work at once; [EnhancedLockManager.Start] adds background work.
func NewEnhancedLockManager(backend Backend, config *EnhancedConfig, logger logging.SimpleLogging, opts ...ManagerOption) *EnhancedLockManager {
	m := &EnhancedLockManager{
		backend: backend,
		logger:  LoggerOrNoop(logger),
		updated: make(chan struct{}, 1),
	}
	m.repeat.state = &m.state
	m.events = newDispatcher(m.logger)
	state := newConfigState(config)
	if backend == nil {
		state.err = errors.Join(state.err, NewInvalidError("backend is nil; pass one of package backends"))
	}
	m.state.Store(state)
	for _, opt := range opts {
		opt(&m.options)
	}
	return m
}

// GetBackend returns the backend that the manager was made with.
func (m *EnhancedLockManager) GetBackend() Backend { return m.backend }

// UpdateConfiguration replaces the configuration of the manager and its
// backend. Calls in progress finish with the one they started with. An invalid
// configuration is refused with INVALID_REQUEST and changes nothing.
func (m *EnhancedLockManager) UpdateConfiguration(config *EnhancedConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if m.backend == nil {
		return m.state.Load().err
	}
	m.updates.Lock()
	defer m.updates.Unlock()
	if err := m.backend.UpdateConfiguration(config); err != nil {
		return err
	}
	m.state.Store(newConfigState(config))
	select {
	case m.updated <- struct{}{}:
	default: // one that has not been seen tells of this one too
	}
	return nil
}

// AddEventCallback registers a callback for this manager's events. Callbacks
// are called one at a time, apart from the lock path, while EnableEvents is set;
// see [EventCallback] for their order. A slow callback loses events beyond
// EventBufferSize, which BackendStats.DroppedEvents counts; one that panics or
// ends its goroutine (runtime.Goexit) is logged, and the next one called.
func (m *EnhancedLockManager) AddEventCallback(callback EventCallback) {
	m.events.add(callback)
}

// Acquire locks a resource for the request's owner. It applies the rules for
// names that people choose, which are stricter than what stock Atlantis
// accepts. With the queue enabled it waits; without, a held resource answers
// LOCK_EXISTS with the holder.
func (m *EnhancedLockManager) Acquire(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, error) {
	named := request != nil && request.ID != ""
	return m.acquire(ctx, request, func(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, error) {
		config := m.state.Load().config
		if config.EnablePriorityQueue && !config.QueuesFor(request.Resource, request.User.Username) {
			return m.takeNow(ctx, request)
		}
		retryable := mayPass
		if config.RetryLockExists {
			retryable = mayPassOrBeFreed(request)
		}
		renew := func(context.Context) error { return request.renewID() }
		if named {
			renew = nil
		}
		return repeated(ctx, &m.repeat, retryable, askedAnew(renew, func(ctx context.Context) (*EnhancedLock, error) {
			return m.backend.AcquireLock(ctx, request)
		}))
	})
}

// AcquireNow is Acquire for callers that can't wait: a held resource answers
// LOCK_EXISTS with the holder, with the queue enabled, too.
func (m *EnhancedLockManager) AcquireNow(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, error) {
	return m.acquire(ctx, request, m.takeNow)
}

func (m *EnhancedLockManager) takeNow(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, error) {
	lock, acquired, err := m.tryAcquire(ctx, request)
	if err == nil && !acquired {
		return nil, NewHeldError(lock.Resource, lock)
	}
	return lock, err
}

func (m *EnhancedLockManager) acquire(ctx context.Context, request *EnhancedLockRequest, take func(context.Context, *EnhancedLockRequest) (*EnhancedLock, error)) (*EnhancedLock, error) {
	config, err := m.ready(ctx)
	if err != nil {
		return nil, err
	}
	normalized, err := NormalizeRequest(request, m.defaultLease(config), config.MaxTimeout)
	if err != nil {
		return nil, err
	}
	if err := normalized.validateStrict(); err != nil {
		return nil, err
	}
	if m.asks() {
		if err := m.authorize(ctx, acquireAuthorization(normalized)); err != nil {
			return nil, err
		}
	}
	ctx, heard := m.hearGrant(ctx)
	lock, err := take(ctx, normalized)
	m.publishAcquire(normalized, lock, heard, err == nil, err)
	return lock, err
}

// TryAcquire is [Backend.TryAcquireLock] with events. It accepts every name
// that stock Atlantis accepts.
func (m *EnhancedLockManager) TryAcquire(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, bool, error) {
	config, err := m.ready(ctx)
	if err != nil {
		return nil, false, err
	}
	normalized, err := NormalizeRequest(request, m.defaultLease(config), config.MaxTimeout)
	if err != nil {
		return nil, false, err
	}
	if m.asks() {
		if err := m.authorize(ctx, acquireAuthorization(normalized)); err != nil {
			return nil, false, err
		}
	}
	normalized.Detached = normalized.Detached && config.QueuesFor(normalized.Resource, normalized.User.Username)
	ctx, heard := m.hearGrant(ctx)
	lock, acquired, err := m.tryAcquire(ctx, normalized)
	m.publishAcquire(normalized, lock, heard, acquired, err)
	return lock, acquired, err
}

// tryAcquire asks the backend. The request has its ID, and keeps it: what an
// earlier attempt got is the answer to a later one.
func (m *EnhancedLockManager) tryAcquire(ctx context.Context, request *EnhancedLockRequest) (lock *EnhancedLock, acquired bool, err error) {
	if m.state.Load().retry == nil {
		return m.backend.TryAcquireLock(ctx, request)
	}
	err = m.repeat.do(ctx, mayPass, func(ctx context.Context) (err error) {
		lock, acquired, err = m.backend.TryAcquireLock(ctx, request)
		return err
	})
	return lock, acquired, err
}

// Release is [Backend.Release] with authorization and events.
func (m *EnhancedLockManager) Release(ctx context.Context, request ReleaseRequest) (*EnhancedLock, error) {
	if _, err := m.ready(ctx); err != nil {
		return nil, err
	}
	if err := request.Validate(); err != nil {
		return nil, err
	}
	if m.asks() {
		if err := m.authorize(ctx, releaseAuthorization(request)); err != nil {
			return nil, err
		}
	}
	lock, err := m.release(ctx, request)
	if err != nil {
		return nil, err
	}
	if !lock.releasedBefore() {
		m.publishRelease(lock, request)
	}
	return lock, nil
}

// release asks the backend.
func (m *EnhancedLockManager) release(ctx context.Context, request ReleaseRequest) (*EnhancedLock, error) {
	if m.state.Load().retry == nil {
		return m.backend.Release(ctx, request)
	}
	return repeated(ctx, &m.repeat, mayPassUndone, func(ctx context.Context) (*EnhancedLock, error) { return m.backend.Release(ctx, request) })
}

// ReleaseByPull is [Backend.ReleaseByPull] with events.
func (m *EnhancedLockManager) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*EnhancedLock, error) {
	if _, err := m.ready(ctx); err != nil {
		return nil, err
	}
	if err := m.authorize(ctx, releasePullAuthorization(repository, number, actor)); err != nil {
		return nil, err
	}
	locks, err := repeated(ctx, &m.repeat, mayPassUndone, func(ctx context.Context) ([]*EnhancedLock, error) {
		return m.backend.ReleaseByPull(ctx, repository, number, actor)
	})
	for _, lock := range locks {
		m.publishRelease(lock, ReleaseRequest{Actor: actor})
	}
	return locks, err
}

// Lock locks a project for a user with the priority that PriorityRules give, which
// is PriorityNormal without any, and the backend's default lease: DefaultTimeout, on
// Redis RedisLockTTL. A held lock, the user's own included, answers LOCK_EXISTS with the holder.
func (m *EnhancedLockManager) Lock(ctx context.Context, project models.Project, workspace string, user models.User) (*models.ProjectLock, error) {
	return m.lock(ctx, project, workspace, user, m.priorityFor(project, workspace, user), 0)
}

// LockWithPriority is Lock with another place in the queue.
func (m *EnhancedLockManager) LockWithPriority(ctx context.Context, project models.Project, workspace string, user models.User, priority Priority) (*models.ProjectLock, error) {
	return m.lock(ctx, project, workspace, user, priority, 0)
}

// LockWithTimeout is Lock with another lease, at most MaxTimeout. NoTimeout
// asks for a lock that is held until released.
func (m *EnhancedLockManager) LockWithTimeout(ctx context.Context, project models.Project, workspace string, user models.User, timeout time.Duration) (*models.ProjectLock, error) {
	if timeout == 0 {
		return nil, NewInvalidError("timeout 0s is not a lease; give a positive duration or NoTimeout")
	}
	return m.lock(ctx, project, workspace, user, m.priorityFor(project, workspace, user), timeout)
}

func (m *EnhancedLockManager) priorityFor(project models.Project, workspace string, user models.User) Priority {
	priority, _ := m.state.Load().config.PriorityFor(ProjectResource(project, workspace), user.Username)
	return priority
}

func (m *EnhancedLockManager) lock(ctx context.Context, project models.Project, workspace string, user models.User, priority Priority, timeout time.Duration) (*models.ProjectLock, error) {
	lock, err := m.Acquire(ctx, &EnhancedLockRequest{
		Project:   project,
		Workspace: workspace,
		User:      user,
		Priority:  priority,
		Timeout:   timeout,
	})
	if err != nil {
		return nil, err
	}
	return lock.OriginalLock, nil
}

// Unlock releases the user's lock. PERMISSION_DENIED if somebody else holds
// it, a pull request of the same person included; LOCK_NOT_FOUND if nobody does.
func (m *EnhancedLockManager) Unlock(ctx context.Context, project models.Project, workspace string, user models.User) (*models.ProjectLock, error) {
	if user.Username == "" {
		return nil, NewInvalidError("user is empty; locks are released by their owner")
	}
	lock, err := m.Release(ctx, ReleaseRequest{
		Resource: ProjectResource(project, workspace),
		Owner:    UserOwner(user.Username).String(),
	})
	if err != nil {
		return nil, err
	}
	return lock.OriginalLock, nil
}

// List returns all held locks, ordered by repository and resource.
func (m *EnhancedLockManager) List(ctx context.Context) ([]*models.ProjectLock, error) {
	if _, err := m.ready(ctx); err != nil {
		return nil, err
	}
	locks, err := m.repeat.listLocks(ctx, m.backend)
	if err != nil {
		return nil, err
	}
	projectLocks := make([]*models.ProjectLock, len(locks))
	for i, lock := range locks {
		projectLocks[i] = lock.OriginalLock
	}
	return projectLocks, nil
}

// GetStats returns the backend's statistics with those of this manager's
// events. They are never nil; with the store down, ActiveLocks and QueueDepth
// are missing, HealthScore is at most 10, and the error says why.
func (m *EnhancedLockManager) GetStats(ctx context.Context) (*BackendStats, error) {
	if _, err := m.ready(ctx); err != nil {
		return &BackendStats{}, err
	}
	stats, err := m.backend.GetStats(ctx)
	stats.Retries = m.repeat.retries.Load()
	delivered, dropped := m.events.counts()
	stats.DroppedEvents = dropped
	if all := delivered + dropped; all > 0 {
		stats.EventDropRate = float64(dropped) / float64(all)
	}
	stats.HealthScore = HealthScore(stats, err)
	return stats, err
}

// GetHealth returns nil when locks can be taken: the configuration is valid
// and the store answers.
func (m *EnhancedLockManager) GetHealth(ctx context.Context) error {
	if _, err := m.ready(ctx); err != nil {
		return err
	}
	return m.backend.HealthCheck(ctx)
}

// ready returns the configuration that the call is to use, or why it cannot go on.
func (m *EnhancedLockManager) ready(ctx context.Context) (*EnhancedConfig, error) {
	state := m.state.Load()
	if state.err != nil {
		return nil, state.err
	}
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	return state.config, nil
}

// contextError is the answer to a call whose context had ended before it had
// any effect.
func contextError(err error) error {
	return &LockError{Code: ErrCodeTimeout, Message: "the call's context has ended, nothing was done", Err: err}
}
