package enhanced

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/runatlantis/atlantis/server/events/models"
	"golang.org/x/sync/errgroup"
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
			err = m.reconcileLegacy(ctx, fleet.Epoch, false)
		}
		if to != ModeOff {
			err = errors.Join(err, m.reconcileStore(ctx, false))
		}
		return err
	case from == ModeFull && to == ModeFull, from != ModeFull && to == ModeOff:
		return nil
	case from == ModeFull:
		return m.reconcileLegacy(ctx, fleet.Epoch, true)
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
	there := make(map[ResourceIdentifier]bool)
	var stale []*EnhancedLock
	for _, lock := range stored {
		owner := ownerOf(lock)
		number, held := wanted[lock.Resource]
		same := held && owner.Kind == OwnerPull && number == owner.Number
		there[lock.Resource] = same && lock.State != LockStatePending // else it is to be claimed
		if releases && !same && lock.Resource.Type == ResourceTypeProject && owner.Kind == OwnerPull {
			stale = append(stale, lock)
		}
	}
	if err := together(stale, func(_ int, lock *EnhancedLock) error { return m.releaseStale(ctx, lock) }); err != nil {
		return err
	}
	locks = slices.DeleteFunc(locks, func(lock models.ProjectLock) bool { return there[ProjectResource(lock.Project, lock.Workspace)] })
	copies := make([]*EnhancedLock, len(locks))
	err = together(locks, func(i int, lock models.ProjectLock) (err error) {
		copies[i], err = m.copyToStore(ctx, lock)
		return err
	})
	return errors.Join(err, m.checkStoreCopies(ctx, slices.DeleteFunc(copies, isNone)))
}

// checkStoreCopies takes back the copies of locks that were released meanwhile.
func (m *member) checkStoreCopies(ctx context.Context, copies []*EnhancedLock) error {
	if len(copies) == 0 {
		return nil
	}
	locks, err := m.listLegacy()
	if err != nil {
		return fmt.Errorf("the legacy database's locks: %w", err)
	}
	held := make(map[ResourceIdentifier]int)
	for _, lock := range locks {
		held[ProjectResource(lock.Project, lock.Workspace)] = lock.Pull.Num
	}
	return together(copies, func(_ int, made *EnhancedLock) error {
		if held[made.Resource] == ownerOf(made).Number {
			return nil
		}
		return m.releaseStale(ctx, made)
	})
}

// afterRelease looks at the store when the legacy database has released a lock that
// the store had released before, or did not hold: it may hold a copy of it now, or
// the pull request's next lock, which has met the one that was released.
func (m *member) afterRelease(released models.ProjectLock) error {
	ctx, cancel := m.adapter.operationContext()
	defer cancel()
	lock, err := m.adapter.store.repeat.lookupLock(ctx, m.adapter.backend, ProjectResource(released.Project, released.Workspace))
	if errors.Is(err, ErrLockNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner := ownerOf(lock); owner.Kind != OwnerPull || owner.Number != released.Pull.Num {
		return nil
	}
	if lock.Metadata[copiedKey] != "" {
		return m.releaseStale(ctx, lock)
	}
	_, _, err = m.adapter.legacy.TryLock(*lock.OriginalLock)
	return err
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
	return m.releaseExactly(ctx, lock, "the legacy database, which decides, does not hold it")
}

func (m *member) releaseExactly(ctx context.Context, lock *EnhancedLock, reason string) error {
	_, err := m.adapter.manager.Release(ctx, ReleaseRequest{
		LockID: lock.ID, Resource: lock.Resource, Force: true, Actor: SystemAtlantis, Reason: reason,
	})
	if errors.Is(err, ErrLockNotFound) || errors.Is(err, ErrLockExpired) {
		return nil
	}
	return err
}

// copiedKey marks the metadata of a lock that was copied from the legacy database.
const copiedKey = MetadataCopiedFrom

func copied() map[string]string { return map[string]string{copiedKey: "legacy database"} }

// copyToStore returns the lock that it had to take, nil if the pull request had it.
func (m *member) copyToStore(ctx context.Context, lock models.ProjectLock) (*EnhancedLock, error) {
	resource := ProjectResource(lock.Project, lock.Workspace)
	if m.mirrored() {
		// What has come since the store was listed the store has, too. Looked for
		// in the other order, a copy would be found as the lock itself.
		held, err := m.adapter.store.repeat.lookupLock(ctx, m.adapter.backend, resource)
		if err == nil && held.State != LockStatePending && ownerOf(held).Kind == OwnerPull && ownerOf(held).Number == lock.Pull.Num {
			return nil, nil
		}
		if m.inOneFile() && errors.Is(err, ErrLockNotFound) {
			return nil, nil // released since
		}
		now, err := m.adapter.legacy.GetLock(lock.Project, lock.Workspace)
		if err != nil || now == nil || now.Pull.Num != lock.Pull.Num {
			return nil, err
		}
	}
	holder, mine, fresh, err := m.adapter.store.take(ctx, lock, copied())
	switch {
	case err != nil:
		return nil, err
	case fresh:
		return holder, nil
	case mine:
		return nil, nil
	}
	// If it has changed hands since it was listed, the next try finds that.
	return nil, fmt.Errorf("%s: the legacy database says %s, the store %s", holder.Resource, heldBy(&lock), storeSays(holder, nil))
}

// mirrored says that the legacy database may be in the store itself, which then
// writes what it decides in both forms.
func (m *member) mirrored() bool { return m.adapter.state.Load().config.PreserveLegacyFormat }

// reconcileLegacy has the legacy database hold the store's locks of pull requests
// and, when it releases, no other lock.
func (m *member) reconcileLegacy(ctx context.Context, epoch int64, releases bool) error {
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
	var orphans []models.ProjectLock
	for _, lock := range locks {
		holder := held[ProjectResource(lock.Project, lock.Workspace)]
		if releases && (holder == nil || ownerOf(holder).Number != lock.Pull.Num) {
			orphans = append(orphans, lock)
		}
	}
	if err := m.orphans.look(m, epoch, orphans); err != nil {
		return err
	}
	for _, lock := range locks {
		resource := ProjectResource(lock.Project, lock.Workspace)
		if holder := held[resource]; holder != nil && ownerOf(holder).Number == lock.Pull.Num && holder.State != LockStatePending {
			delete(held, resource)
		}
	}
	missing := slices.Collect(maps.Values(held))
	copies := make([]*EnhancedLock, len(missing))
	err = together(missing, func(i int, lock *EnhancedLock) error {
		made, err := m.copyToLegacy(ctx, lock)
		if made {
			copies[i] = lock
		}
		return err
	})
	copies = slices.DeleteFunc(copies, isNone)
	err = errors.Join(err, together(copies, func(_ int, lock *EnhancedLock) error { return m.checkLegacyCopy(ctx, lock) }))
	if err != nil {
		m.orphans.again()
	}
	return err
}

// checkLegacyCopy takes back the copy of a lock that was released meanwhile.
func (m *member) checkLegacyCopy(ctx context.Context, lock *EnhancedLock) error {
	for {
		if held, err := m.heldInStore(ctx, lock); err != nil || held != nil {
			return err
		}
		original := lock.OriginalLock
		if _, err := m.adapter.legacy.UnlockIfOwnedByPull(original.Project, original.Workspace, original.Pull.Num); err != nil {
			return err
		}
		// Who has taken it meanwhile may have met the copy: so it is copied again.
		held, err := m.heldInStore(ctx, lock)
		if err != nil || held == nil {
			return err
		}
		if made, err := m.copyToLegacy(ctx, held); err != nil || !made {
			return err
		}
		lock = held
	}
}

// heldInStore returns what the owner of a lock holds of its resource now, nil for
// nothing.
func (m *member) heldInStore(ctx context.Context, lock *EnhancedLock) (*EnhancedLock, error) {
	held, err := m.adapter.store.repeat.lookupLock(ctx, m.adapter.backend, lock.Resource)
	if errors.Is(err, ErrLockNotFound) || err == nil && held.Owner != lock.Owner {
		return nil, nil
	}
	return held, err
}

// copyToLegacy says whether it had to take the lock.
func (m *member) copyToLegacy(ctx context.Context, lock *EnhancedLock) (made bool, err error) {
	owner := ownerOf(lock)
	if owner.Kind != OwnerPull || lock.State == LockStatePending {
		return false, fmt.Errorf("%s: %s holds it in the store; the legacy database knows locks of pull requests only, so it must be released first",
			lock.Resource, describeHolder(lock))
	}
	if m.mirrored() { // see copyToStore
		now, err := m.adapter.legacy.GetLock(lock.OriginalLock.Project, lock.OriginalLock.Workspace)
		if err != nil || now != nil && now.Pull.Num == owner.Number {
			return false, err
		}
		if held, err := m.heldInStore(ctx, lock); err != nil || held == nil {
			return false, err
		}
	}
	granted, holder, err := m.adapter.legacy.TryLock(*lock.OriginalLock)
	if err != nil || granted || holder.Pull.Num == owner.Number {
		return granted, err
	}
	return false, fmt.Errorf("%s: the store says %s, the legacy database %s", lock.Resource, heldBy(lock.OriginalLock), heldBy(&holder))
}

// atOnce is how many locks a switch copies at the same time: they share commits.
const atOnce = 16

// together calls f for all items, some at the same time, and joins its errors.
func together[T any](items []T, f func(i int, item T) error) error {
	errs := make([]error, len(items))
	var workers errgroup.Group
	workers.SetLimit(atOnce)
	for i, item := range items {
		workers.Go(func() error {
			errs[i] = f(i, item)
			return nil
		})
	}
	return errors.Join(workers.Wait(), errors.Join(errs...))
}

func isNone(lock *EnhancedLock) bool { return lock == nil }
