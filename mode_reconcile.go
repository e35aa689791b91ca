package enhanced

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// What a switch has to pass: who decides from then on must know what the other one
// has decided. While this goes on, operations need the grants of both databases, the
// legacy database's first and last. So at each moment what the store holds the legacy
// database holds, too, but for what is from before. All of it can be done again.

// reconcile makes the database that is to decide, or to be compared, hold what the
// one that decides holds. Its error says what keeps it from that.
func (m *member) reconcile(ctx context.Context, fleet *Fleet) error {
	from, to := fleet.From, fleet.Mode
	switch {
	case fleet.First():
		var err error
		if to != ModeFull {
			err = m.reconcileLegacy(ctx, false)
		}
		if to != ModeOff {
			err = errors.Join(err, m.reconcileStore(ctx, false))
		}
		return err
	case from == ModeFull && to == ModeFull, from != ModeFull && to == ModeOff:
		return nil
	case from == ModeFull:
		return m.reconcileLegacy(ctx, true)
	default:
		return m.reconcileStore(ctx, true)
	}
}

// reconcileStore has the store hold the locks of the legacy database and, when it
// releases, no other lock of a pull request.
func (m *member) reconcileStore(ctx context.Context, releases bool) error {
	a := m.adapter
	// First the store, see above: what it holds and the legacy database does not is
	// from before, or was released since.
	stored, err := a.store.repeat.listLocks(ctx, a.backend)
	if err != nil {
		return fmt.Errorf("the store's locks: %w", err)
	}
	locks, err := m.listLegacy()
	if err != nil {
		return fmt.Errorf("the legacy database's locks: %w", err)
	}
	wanted := make(map[ResourceIdentifier]int)
	for _, lock := range locks {
		wanted[ProjectResource(lock.Project, lock.Workspace)] = lock.Pull.Num
	}
	for _, lock := range stored {
		owner := ownerOf(lock)
		if !releases {
			break
		}
		if number, held := wanted[lock.Resource]; lock.Resource.Type != ResourceTypeProject || owner.Kind != OwnerPull || held && number == owner.Number {
			continue
		}
		if err := m.releaseStale(ctx, lock); err != nil {
			return err
		}
	}
	var problems []error
	for _, lock := range locks {
		if err := m.copyToStore(ctx, lock); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// listLegacy lists the legacy database while no operation of this adapter is under
// way, see compareHolder.
func (m *member) listLegacy() ([]models.ProjectLock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.adapter.legacy.List()
}

// releaseStale releases exactly this lock.
func (m *member) releaseStale(ctx context.Context, lock *EnhancedLock) error {
	_, err := m.adapter.manager.Release(ctx, ReleaseRequest{
		LockID: lock.ID, Resource: lock.Resource, Force: true, Actor: SystemAtlantis,
		Reason: "the legacy database, which decides, does not hold it",
	})
	if errors.Is(err, ErrLockNotFound) || errors.Is(err, ErrLockExpired) {
		return nil
	}
	return err
}

func (m *member) copyToStore(ctx context.Context, lock models.ProjectLock) error {
	holder, mine, err := m.adapter.store.take(ctx, lock)
	if err != nil || mine {
		return err
	}
	// If it has changed hands since it was listed, the next try finds that.
	return fmt.Errorf("%s: the legacy database says %s, the store %s", holder.Resource, heldBy(&lock), storeSays(holder, nil))
}

// reconcileLegacy has the legacy database hold the store's locks of pull requests
// and, when it releases, no other lock.
func (m *member) reconcileLegacy(ctx context.Context, releases bool) error {
	a := m.adapter
	locks, err := m.listLegacy()
	if err != nil {
		return fmt.Errorf("the legacy database's locks: %w", err)
	}
	stored, err := a.store.repeat.listLocks(ctx, a.backend)
	if err != nil {
		return fmt.Errorf("the store's locks: %w", err)
	}
	held := make(map[ResourceIdentifier]*EnhancedLock)
	for _, lock := range stored {
		if lock.Resource.Type == ResourceTypeProject {
			held[lock.Resource] = lock
		}
	}
	var problems []error
	before := m.orphans
	m.orphans = make(map[string]time.Time)
	for _, lock := range locks {
		resource := ProjectResource(lock.Project, lock.Workspace)
		if holder := held[resource]; releases && holder == nil || releases && ownerOf(holder).Number != lock.Pull.Num {
			problems = append(problems, m.releaseOrphan(resource, lock, before))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	m.orphans = nil
	for _, lock := range held {
		if err := m.copyToLegacy(lock); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// releaseOrphan releases a lock of the legacy database that the store does not
// hold. An operation that is under way elsewhere has such a lock for a moment: so it
// must be seen at each look for longer than an operation takes, and be the same: one
// that was released and taken again has another time.
func (m *member) releaseOrphan(resource ResourceIdentifier, lock models.ProjectLock, before map[string]time.Time) error {
	key := keysOf([]models.ProjectLock{lock})[0] + lock.Time.UTC().Format(time.RFC3339Nano)
	since, seen := before[key]
	if !seen {
		since = time.Now()
	}
	m.orphans[key] = since
	if time.Since(since) <= 2*m.adapter.state.Load().config.OperationTimeout {
		return fmt.Errorf("%s: the legacy database says %s, the store %s; that may be a lock that is being taken, and is looked at again",
			resource, heldBy(&lock), nobody)
	}
	_, err := m.adapter.legacy.UnlockIfOwnedByPull(lock.Project, lock.Workspace, lock.Pull.Num)
	return err
}

func (m *member) copyToLegacy(lock *EnhancedLock) error {
	owner := ownerOf(lock)
	if owner.Kind != OwnerPull || lock.State == LockStatePending {
		return fmt.Errorf("%s: %s holds it in the store; the legacy database knows locks of pull requests only, so it must be released first",
			lock.Resource, describeHolder(lock))
	}
	granted, holder, err := m.adapter.legacy.TryLock(*lock.OriginalLock)
	if err != nil || granted || holder.Pull.Num == owner.Number {
		return err
	}
	return fmt.Errorf("%s: the store says %s, the legacy database %s", lock.Resource, heldBy(lock.OriginalLock), heldBy(&holder))
}
