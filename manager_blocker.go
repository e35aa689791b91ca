package enhanced

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// Kinds of [Blocker].
const (
	// BlockedByLock: somebody holds it.
	BlockedByLock = "lock"
	// BlockedByClaim: it was granted to a pull request that has not taken it yet.
	BlockedByClaim = "claim"
	// BlockedByReservation: a pull request has given it back to plan again, and it
	// is kept for it.
	BlockedByReservation = "reservation"
	// BlockedByDelay: a lease has ended without a release, and the resource stays
	// closed to others for EnhancedConfig.UncleanReleaseDelay.
	BlockedByDelay = "delay"
	// BlockedBySet: nobody has it. Who is first in its queue waits for other
	// resources, too, and gets all of them together.
	BlockedBySet = "set"
)

// Blocker is what keeps those who wait for a resource from it.
type Blocker struct {
	// Kind is one of the BlockedBy constants.
	Kind string
	// Owner is whose it is, in an owner's text form.
	Owner string
	// Until is when that ends by itself, by the store's clock: a lease, the time to
	// claim a grant, a reservation, the delay. Nil where nothing ends it but its owner.
	Until *time.Time
	// Note is what the owner of a lock or a claim wants others to know.
	Note string
}

// Place is where an owner stands in a queue.
type Place struct {
	// Number is the place, from 1; 0 for one who does not wait.
	Number int
	// Length is how many wait.
	Length int
	// Blocker is what all of them wait for, nil for nothing.
	Blocker *Blocker
}

// Reservation is for whom a resource that nobody holds is kept.
type Reservation struct {
	// Kind is [BlockedByReservation], [BlockedByDelay] or [BlockedBySet].
	Kind string
	// Lock is the lock that its owner had, or the one that a set waits for, as
	// refusals show it: without an ID, in [LockStatePending].
	Lock *EnhancedLock
	// Until is the latest time until which it is kept, by the store's clock; nil for
	// a set, which waits until all of its resources are free.
	Until *time.Time
}

// ReservationReader is a backend that tells for whom a free resource is kept.
type ReservationReader interface {
	// LookupReservation returns for whom a resource is kept, LOCK_NOT_FOUND where it
	// is for nobody. A lease that has ended counts as settled. It changes nothing.
	LookupReservation(ctx context.Context, resource ResourceIdentifier) (*Reservation, error)
}

// FindPlace says where an owner stands in the queue of a project, and what those
// who wait there wait for. It reads one after the other, so while something
// changes they may not fit together.
func (m *EnhancedLockManager) FindPlace(ctx context.Context, project models.Project, workspace string, owner Owner) (Place, error) {
	resource := ProjectResource(project, workspace)
	waiters, err := m.waiters(ctx, resource)
	if err != nil {
		return Place{}, err
	}
	place := Place{Length: len(waiters)}
	place.Number = 1 + slices.IndexFunc(waiters, func(r *EnhancedLockRequest) bool { return r.Owner() == owner })
	place.Blocker, err = m.findBlocker(ctx, resource, waiters)
	return place, err
}

// findBlocker returns what keeps the waiters from a resource, nil for nothing.
func (m *EnhancedLockManager) findBlocker(ctx context.Context, resource ResourceIdentifier, waiters []*EnhancedLockRequest) (*Blocker, error) {
	lock, err := m.repeat.lookupLock(ctx, m.backend, resource)
	switch {
	case err == nil:
		return &Blocker{Kind: kindOf(lock), Owner: lock.Owner, Until: lock.ExpiresAt, Note: lock.Metadata[MetadataNote]}, nil
	case !errors.Is(err, ErrLockNotFound):
		return nil, err
	}
	kept, err := m.reservationOf(ctx, resource)
	switch {
	case err != nil:
		return nil, err
	case kept != nil:
		return &Blocker{Kind: kept.Kind, Owner: kept.Lock.Owner, Until: kept.Until}, nil
	case len(waiters) == 0:
		return nil, nil
	}
	// One that waits for this alone would have been granted it.
	return &Blocker{Kind: BlockedBySet, Owner: waiters[0].Owner().String()}, nil
}

// kindOf tells a grant that was not taken yet from other locks.
func kindOf(lock *EnhancedLock) string {
	if lock.State == LockStatePending {
		return BlockedByClaim
	}
	return BlockedByLock
}

// reservationOf returns for whom a free resource is kept, nil for nobody.
func (m *EnhancedLockManager) reservationOf(ctx context.Context, resource ResourceIdentifier) (*Reservation, error) {
	reader, can := m.backend.(ReservationReader)
	if !can {
		return nil, nil
	}
	kept, err := repeated(ctx, &m.repeat, mayPass, func(ctx context.Context) (*Reservation, error) {
		return reader.LookupReservation(ctx, resource)
	})
	if errors.Is(err, ErrLockNotFound) {
		return nil, nil
	}
	return kept, err
}
