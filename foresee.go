package enhanced

import (
	"context"
	"errors"
)

// LegacyKeyExcluder is a backend that says whether different resources with one
// legacy key exclude each other in it, as they do in stock Atlantis. One that
// does not say is taken to.
type LegacyKeyExcluder interface {
	ExcludesByLegacyKey() bool
}

// Foreseen is what [EnhancedLockManager.TryAcquire] would answer. A lock that
// would be granted has no ID and no token.
type Foreseen struct {
	Lock     *EnhancedLock
	Acquired bool
	Err      error
	// Kind says what Lock is where it is not acquired: one of the BlockedBy constants.
	Kind string
}

// Foresee says what TryAcquire would answer to the requests, one after the
// other, and takes nothing. The Authorizer is asked as it would be. What is granted
// or reserved is foreseen for its owner only, and so is what is kept for a set. It
// does not know that an owner who takes one of the resources of such a set ends the
// set, which keeps nothing from then on.
func (m *EnhancedLockManager) Foresee(ctx context.Context, requests []*EnhancedLockRequest) []Foreseen {
	answers := make([]Foreseen, len(requests))
	var granted []*EnhancedLock
	for i, request := range requests {
		answers[i] = m.foresee(ctx, request, granted)
		if answers[i].Acquired {
			granted = append(granted, answers[i].Lock)
		}
	}
	return answers
}

// foresee answers one request, given what those before it would have got.
func (m *EnhancedLockManager) foresee(ctx context.Context, request *EnhancedLockRequest, granted []*EnhancedLock) Foreseen {
	config, err := m.ready(ctx)
	if err != nil {
		return Foreseen{Err: err}
	}
	r, err := NormalizeRequest(request, m.defaultLease(config), config.MaxTimeout)
	if err != nil {
		return Foreseen{Err: err}
	}
	if err := m.authorize(ctx, acquireAuthorization(r)); err != nil {
		return Foreseen{Err: err}
	}
	blocked, err := m.foreseeBlocker(ctx, r.Resource)
	if err != nil || blocked.Lock != nil && !isPendingFor(blocked.Lock, r) {
		blocked.Err = err
		return blocked
	}
	for _, lock := range granted {
		if m.excludes(lock.Resource, r.Resource) {
			return Foreseen{Lock: lock, Kind: BlockedByLock}
		}
	}
	original := r.ProjectLock()
	return Foreseen{Acquired: true, Lock: &EnhancedLock{
		Resource: r.Resource, State: LockStateAcquired, Priority: r.Priority,
		Owner: r.Owner().String(), Metadata: r.Metadata, OriginalLock: &original,
	}}
}

// foreseeBlocker returns what is in the way of those who ask for a resource, without
// a lock for nothing.
func (m *EnhancedLockManager) foreseeBlocker(ctx context.Context, resource ResourceIdentifier) (Foreseen, error) {
	holder, err := m.holderOf(ctx, resource)
	switch {
	case err != nil:
		return Foreseen{Lock: holder}, err
	case holder != nil:
		return Foreseen{Lock: holder, Kind: kindOf(holder)}, nil
	}
	kept, err := m.reservationOf(ctx, resource)
	if err != nil || kept == nil {
		return Foreseen{}, err
	}
	return Foreseen{Lock: kept.Lock, Kind: kept.Kind}, nil
}

// isPendingFor reports whether what is granted or kept is kept for the owner of a
// request.
func isPendingFor(lock *EnhancedLock, r *EnhancedLockRequest) bool {
	if lock.State != LockStatePending {
		return false
	}
	owner, err := ParseOwner(lock.Owner)
	return err == nil && (owner == r.Owner() || owner.SamePull(r.Owner()) || r.Owner().SamePull(owner))
}

// holderOf returns the lock that stands in the way of one on a resource, nil
// for none.
func (m *EnhancedLockManager) holderOf(ctx context.Context, resource ResourceIdentifier) (*EnhancedLock, error) {
	holder, err := m.repeat.lookupLock(ctx, m.backend, resource)
	if !errors.Is(err, ErrLockNotFound) {
		return holder, err
	}
	if resource.Type != ResourceTypeProject {
		return nil, nil
	}
	others, err := m.repeat.locksByLegacyKey(ctx, m.backend, resource.LegacyKey())
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		if m.excludes(other.Resource, resource) {
			return other, nil
		}
	}
	return nil, nil
}

// excludes reports whether a lock on one resource keeps everybody from the
// other.
func (m *EnhancedLockManager) excludes(held, wanted ResourceIdentifier) bool {
	if held == wanted {
		return true
	}
	if held.Type != ResourceTypeProject || wanted.Type != ResourceTypeProject || held.LegacyKey() != wanted.LegacyKey() {
		return false
	}
	excluder, ok := m.backend.(LegacyKeyExcluder)
	return !ok || excluder.ExcludesByLegacyKey()
}
