// Package mutants has lock stores with one seeded bug each, to show that the
// referees of package history see such a bug. Each is a wrapper around a store
// that is right, and as right itself but for its bug: where it can, it gives
// the answer that the store would have given.
package mutants

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Mutant is a seeded bug.
type Mutant struct {
	Name string
	// Wrap returns the store with the bug.
	Wrap func(store enhanced.Backend) enhanced.Backend
}

// All returns all mutants.
func All() []Mutant {
	return []Mutant{
		{"check, then act", func(b enhanced.Backend) enhanced.Backend { return &checkThenAct{b} }},
		{"release without token", func(b enhanced.Backend) enhanced.Backend { return &releaseByResource{Backend: b} }},
		{"token used again", func(b enhanced.Backend) enhanced.Backend { return &tokenReused{aliases: newAliases(b)} }},
		{"renewal makes an expired lock again", func(b enhanced.Backend) enhanced.Backend { return &renewalRecreates{aliases: newAliases(b)} }},
		{"settle skipped, an expired lock refuses", func(b enhanced.Backend) enhanced.Backend { return newNeverSettles(b) }},
		{"settle skipped, an expired lock is shown as held", func(b enhanced.Backend) enhanced.Backend { return &showsExpired{Backend: b} }},
		{"release by pull goes by prefix", func(b enhanced.Backend) enhanced.Backend { return &byPrefix{b} }},
		{"deadline from the client's clock", func(b enhanced.Backend) enhanced.Backend { return &clientClock{b} }},
		{"requests are not remembered", func(b enhanced.Backend) enhanced.Backend { return &forgetsRequests{b} }},
		{"an unknown outcome is called none", func(b enhanced.Backend) enhanced.Backend { return &callsUnknownNothing{b} }},
	}
}

// checkThenAct looks whether the lock is free and then takes it, whatever has
// happened in between, as GET and SET do.
type checkThenAct struct{ enhanced.Backend }

func (m *checkThenAct) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	if _, err := m.LookupLock(ctx, request.Resource); errors.Is(err, enhanced.ErrLockNotFound) {
		runtime.Gosched()
		//nolint:errcheck // normally it is still free
		m.Release(ctx, enhanced.ReleaseRequest{Resource: request.Resource, Force: true})
	}
	return m.Backend.TryAcquireLock(ctx, request)
}

// releaseByResource releases whatever lock is on the resource of the one that
// is named.
type releaseByResource struct {
	enhanced.Backend
	resources sync.Map // lock ID -> resource
}

func (m *releaseByResource) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	lock, acquired, err := m.Backend.TryAcquireLock(ctx, request)
	if acquired {
		m.resources.Store(lock.ID, lock.Resource)
	}
	return lock, acquired, err
}

func (m *releaseByResource) ReleaseLock(ctx context.Context, lockID string) error {
	err := m.Backend.ReleaseLock(ctx, lockID)
	if resource, ok := m.resources.Load(lockID); ok {
		//nolint:errcheck // normally nothing is left to release
		m.Release(ctx, enhanced.ReleaseRequest{Resource: resource.(enhanced.ResourceIdentifier), Force: true})
	}
	return err
}

// aliases shows some grants under the tokens of others.
type aliases struct {
	enhanced.Backend

	mu    sync.Mutex
	shown map[int64]int64                         // token -> the one that is shown
	ids   map[string]string                       // ID that is shown -> ID
	last  map[string]*enhanced.EnhancedLock       // resource -> the latest grant, as shown
	asked map[string]enhanced.EnhancedLockRequest // ID that is shown -> its request
}

func newAliases(b enhanced.Backend) *aliases {
	return &aliases{
		Backend: b, shown: make(map[int64]int64), ids: make(map[string]string),
		last: make(map[string]*enhanced.EnhancedLock), asked: make(map[string]enhanced.EnhancedLockRequest),
	}
}

// alias shows a lock under the token of another one.
func (a *aliases) alias(lock, as *enhanced.EnhancedLock) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shown[lock.Version] = as.Version
	a.ids[as.ID] = lock.ID
}

func (a *aliases) show(lock *enhanced.EnhancedLock) *enhanced.EnhancedLock {
	a.mu.Lock()
	defer a.mu.Unlock()
	if lock == nil {
		return nil
	}
	if token, ok := a.shown[lock.Version]; ok {
		lock.Version, lock.ID = token, enhanced.FormatLockID(lock.Resource.Namespace, token)
	}
	return lock
}

func (a *aliases) real(lockID string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id, ok := a.ids[lockID]; ok {
		return id
	}
	return lockID
}

func (a *aliases) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	lock, acquired, err := a.Backend.TryAcquireLock(ctx, request)
	return a.show(lock), acquired, err
}

func (a *aliases) LookupLock(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	lock, err := a.Backend.LookupLock(ctx, resource)
	return a.show(lock), err
}

func (a *aliases) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	lock, err := a.Backend.Release(ctx, request)
	var refusal *enhanced.LockError
	if errors.As(err, &refusal) {
		a.show(refusal.Holder)
	}
	return a.show(lock), err
}

func (a *aliases) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	locks, err := a.Backend.ReleaseByPull(ctx, repository, number, actor)
	for _, lock := range locks {
		a.show(lock)
	}
	return locks, err
}

func (a *aliases) ReleaseLock(ctx context.Context, lockID string) error {
	return a.Backend.ReleaseLock(ctx, a.real(lockID))
}

func (a *aliases) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	return a.Backend.RefreshLock(ctx, a.real(lockID), extension)
}

func (a *aliases) TransferLock(ctx context.Context, lockID, newOwner string) error {
	return a.Backend.TransferLock(ctx, a.real(lockID), newOwner)
}

// tokenReused gives every fourth grant the token of the one before it.
type tokenReused struct {
	*aliases
	mu     sync.Mutex
	grants map[string]int
}

func (m *tokenReused) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lock, acquired, err := m.Backend.TryAcquireLock(ctx, request)
	if acquired {
		key := lock.Resource.String()
		last := m.last[key]
		if last != nil && lock.Version > last.Version {
			if m.grants == nil {
				m.grants = make(map[string]int)
			}
			if m.grants[key]++; m.grants[key]%4 == 0 {
				m.alias(lock, last)
			}
		}
		kept := *lock
		m.last[key] = &kept
	}
	return m.show(lock), acquired, err
}

// renewalRecreates answers the renewal of a lock that has expired by taking it
// again under its old token, as SET with an expiry does.
type renewalRecreates struct{ *aliases }

func (m *renewalRecreates) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	lock, acquired, err := m.aliases.TryAcquireLock(ctx, request)
	if acquired {
		m.mu.Lock()
		m.asked[lock.ID] = *request
		m.mu.Unlock()
	}
	return lock, acquired, err
}

func (m *renewalRecreates) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	err := m.aliases.RefreshLock(ctx, lockID, extension)
	m.mu.Lock()
	request, known := m.asked[lockID]
	m.mu.Unlock()
	if !errors.Is(err, enhanced.ErrLockExpired) || !known {
		return err
	}
	request.ID, request.Timeout = "", extension
	lock, acquired, _ := m.Backend.TryAcquireLock(ctx, &request)
	if !acquired {
		return err
	}
	_, token, _ := enhanced.ParseLockID(lockID)
	m.alias(lock, &enhanced.EnhancedLock{ID: lockID, Version: token})
	return nil
}

// neverSettles keeps leases in mind for its answers, but no step ends one.
type neverSettles struct {
	enhanced.Backend
	mu     sync.Mutex
	leases map[int64]time.Time // by token
}

func newNeverSettles(b enhanced.Backend) *neverSettles {
	return &neverSettles{Backend: b, leases: make(map[int64]time.Time)}
}

func (m *neverSettles) show(lock *enhanced.EnhancedLock) *enhanced.EnhancedLock {
	if lock != nil {
		if end, ok := m.leases[lock.Version]; ok {
			lock.ExpiresAt = &end
		}
	}
	return lock
}

func (m *neverSettles) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bare := *request
	bare.Timeout = enhanced.NoTimeout
	lock, acquired, err := m.Backend.TryAcquireLock(ctx, &bare)
	if acquired && request.Timeout > 0 {
		if _, again := m.leases[lock.Version]; !again {
			m.leases[lock.Version] = lock.AcquiredAt.Add(request.Timeout)
		}
	}
	return m.show(lock), acquired, err
}

func (m *neverSettles) LookupLock(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lock, err := m.Backend.LookupLock(ctx, resource)
	if m.show(lock) != nil && lock.ExpiresAt != nil && !time.Now().Before(*lock.ExpiresAt) {
		return nil, enhanced.NewNotFoundError(resource)
	}
	return lock, err
}

func (m *neverSettles) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	lock, err := m.Backend.GetLock(ctx, lockID)
	switch {
	case err != nil:
		return err
	case m.show(lock).ExpiresAt == nil:
		return enhanced.NewInvalidError("lock %s has no lease", lockID)
	case !time.Now().Before(*lock.ExpiresAt):
		return enhanced.NewExpiredError(lockID, lock.Resource)
	}
	m.leases[lock.Version] = time.Now().Add(extension)
	return nil
}

func (m *neverSettles) TransferLock(ctx context.Context, lockID, newOwner string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	lock, err := m.Backend.GetLock(ctx, lockID)
	if err != nil {
		return err
	}
	if err := m.Backend.TransferLock(ctx, lockID, newOwner); err != nil {
		return err
	}
	after, err := m.Backend.LookupLock(context.WithoutCancel(ctx), lock.Resource)
	if end, ok := m.leases[lock.Version]; ok && err == nil {
		m.leases[after.Version] = end
	}
	return nil
}

func (m *neverSettles) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lock, err := m.Backend.Release(ctx, request)
	var refusal *enhanced.LockError
	if errors.As(err, &refusal) {
		m.show(refusal.Holder)
	}
	return m.show(lock), err
}

func (m *neverSettles) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	locks, err := m.Backend.ReleaseByPull(ctx, repository, number, actor)
	for _, lock := range locks {
		m.show(lock)
	}
	return locks, err
}

// showsExpired reads the record of an expired lock without settling.
type showsExpired struct {
	enhanced.Backend
	last sync.Map // resource -> the latest lock with a lease
}

func (m *showsExpired) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	lock, acquired, err := m.Backend.TryAcquireLock(ctx, request)
	if acquired {
		m.last.Store(lock.Resource, lock)
	}
	return lock, acquired, err
}

func (m *showsExpired) LookupLock(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	lock, err := m.Backend.LookupLock(ctx, resource)
	last, ok := m.last.Load(resource)
	if !ok || !errors.Is(err, enhanced.ErrLockNotFound) {
		return lock, err
	}
	record := last.(*enhanced.EnhancedLock)
	if _, gone := m.GetLock(ctx, record.ID); errors.Is(gone, enhanced.ErrLockExpired) {
		return record, nil
	}
	return lock, err
}

// byPrefix releases the locks of a pull request in all repositories whose names
// start with the one that is named, as stock Atlantis does.
type byPrefix struct{ enhanced.Backend }

func (m *byPrefix) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	released, err := m.Backend.ReleaseByPull(ctx, repository, number, actor)
	if err != nil {
		return released, err
	}
	names, err := m.ListRepositories(ctx)
	if err != nil {
		return released, nil //nolint:nilerr // the part without the bug is done
	}
	for _, name := range names {
		if name != repository && strings.HasPrefix(name, repository) {
			locks, err := m.Backend.ReleaseByPull(ctx, name, number, actor)
			if err != nil {
				return released, nil //nolint:nilerr // as above
			}
			released = append(released, locks...)
		}
	}
	return released, nil
}

// clientClock counts the lease from when the client says that it asked.
type clientClock struct{ enhanced.Backend }

func (m *clientClock) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	changed := *request
	if changed.Timeout > 0 {
		changed.Timeout = max(time.Until(request.RequestedAt.Add(request.Timeout)), time.Millisecond)
	}
	return m.Backend.TryAcquireLock(ctx, &changed)
}

// forgetsRequests takes a request that is sent again for a new one.
type forgetsRequests struct{ enhanced.Backend }

func (m *forgetsRequests) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	changed := *request
	changed.ID = ""
	return m.Backend.TryAcquireLock(ctx, &changed)
}

// callsUnknownNothing says of a call that ended early that it had no effect.
type callsUnknownNothing struct{ enhanced.Backend }

func (m *callsUnknownNothing) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	lock, acquired, err := m.Backend.TryAcquireLock(ctx, request)
	if errors.Is(err, enhanced.ErrOutcomeUnknown) {
		err = &enhanced.LockError{Code: enhanced.ErrCodeTimeout, Message: "nothing was done", Err: ctx.Err()}
	}
	return lock, acquired, err
}
