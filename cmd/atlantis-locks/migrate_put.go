package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// migrationReason is in the target's log.
const migrationReason = "it is gone from the store that it was migrated from"

// leaseTolerance is how far the ends of a lease in two stores may be apart: each
// has a clock of its own, and reading takes its time.
const leaseTolerance = 5 * time.Second

// needsLease reports whether the lease of a lock that was carried is to be set
// again.
func needsLease(lock, old *backends.InventoryLock) bool {
	if !hasLease(lock) || !hasLease(old) {
		return false
	}
	return (lock.Lease - old.Lease).Abs() > leaseTolerance
}

// hasLease reports whether a lock ends by itself. One that is to be claimed is
// carried as one that has been: its owner waits for it, and to end it at the time
// that it has for the claim would take it away after that.
func hasLease(lock *backends.InventoryLock) bool {
	return lock.Lease != enhanced.NoTimeout && lock.State != enhanced.LockStatePending
}

// take does what is planned for one lock, in a store of ours. What the store
// refuses stays a difference; only an error of the store ends the migration.
func (m *migration) take(ctx context.Context, step planned) error {
	if step.outOfDate {
		release := enhanced.ReleaseRequest{LockID: step.old.ID, Force: true, Actor: m.actor, Reason: migrationReason}
		_, err := m.to.backend.Release(ctx, release)
		if err != nil && !isDecided(err) {
			return err
		}
		m.remember("lock "+m.place(step.old.Resource), "", &m.report.released)
	}
	switch {
	case step.lock == nil:
		return nil
	case step.old != nil && !step.outOfDate:
		err := m.to.backend.RefreshLock(ctx, step.old.ID, step.lock.Lease)
		if err != nil && !isDecided(err) {
			return err
		}
		return nil
	}
	request, err := requestFor(step.lock, step.request)
	if err != nil {
		m.report.problem(step.lock.Resource.String(), err.Error())
		return nil
	}
	if hasLease(step.lock) && step.lock.Lease < time.Millisecond {
		return nil // it ends now
	}
	holder, taken, err := m.to.backend.TryAcquireLock(ctx, request)
	switch {
	case isDecided(err):
		m.report.problem(step.lock.Resource.String(), err.Error())
	case err != nil:
		return err
	case !taken && holder.Owner != step.lock.Owner:
		m.report.problem(step.lock.Resource.String(), enhanced.NewHeldError(holder.Resource, holder).Error())
	case taken:
		m.remember("lock "+m.place(step.lock.Resource), step.request, &m.report.taken)
	}
	return nil
}

// isDecided reports whether the store has answered, if with no.
func isDecided(err error) bool {
	return err != nil && !errors.Is(err, enhanced.ErrBackend) && !errors.Is(err, enhanced.ErrOutcomeUnknown) &&
		errors.As(err, new(*enhanced.LockError))
}

// requestFor asks for a lock as the source has it.
func requestFor(lock *backends.InventoryLock, id string) (*enhanced.EnhancedLockRequest, error) {
	owner, err := enhanced.ParseOwner(lock.Owner)
	if err != nil {
		return nil, err
	}
	request := &enhanced.EnhancedLockRequest{
		ID: id, Resource: lock.Resource, Priority: lock.Priority, Timeout: enhanced.NoTimeout,
		Metadata: lock.Metadata, User: lock.OriginalLock.User, RequestedAt: lock.OriginalLock.Time,
	}
	if hasLease(lock) {
		request.Timeout = lock.Lease
	}
	if owner.Kind == enhanced.OwnerPull {
		pull := lock.OriginalLock.Pull
		pull.Num, pull.BaseRepo.VCSHost.Hostname = owner.Number, owner.Host
		request.Pull = &pull
	} else {
		request.User.Username = owner.Name
	}
	return request, nil
}

// putStock does what is planned for one lock, in a store of stock Atlantis.
func (m *migration) putStock(ctx context.Context, step planned) error {
	want, have := "", ""
	resource := enhanced.ResourceIdentifier{}
	var err error
	if step.old != nil {
		resource = step.old.Resource
		if have, err = backends.StockForm(*step.old.OriginalLock); err != nil {
			return err
		}
	}
	if step.lock != nil {
		resource = step.lock.Resource
		if want, err = backends.StockForm(*step.lock.OriginalLock); err != nil {
			m.report.problem(resource.String(), "it can't be written in stock Atlantis' format")
			return nil
		}
	}
	changed := false
	err = m.to.stock.Replace(ctx, backends.StockLock, resource.LegacyKey(), func(value string) (string, error) {
		changed = value == have
		if !changed {
			return value, nil // somebody was faster, and the end says so
		}
		return want, nil
	})
	if err == nil && changed {
		counter := &m.report.taken
		if want == "" {
			counter = &m.report.released
		}
		m.remember("lock "+m.place(resource), want, counter)
	}
	return err
}

// putValue changes a status or the lock of a command.
func (m *migration) putValue(ctx context.Context, v plannedValue) error {
	changed := false
	err := m.to.stock.Replace(ctx, v.kind, v.key, func(value string) (string, error) {
		changed = value == v.from || v.from != "" && backends.SameStatus(v.kind, v.key, value, v.from)
		if !changed {
			return value, nil
		}
		return v.to, nil
	})
	if err == nil && changed {
		m.remember(valueName(v.kind, v.key), v.to, &m.report.values)
	}
	return err
}

// deleteSource takes away from the source what the target has, and returns how
// much is left.
func (m *migration) deleteSource(ctx context.Context, source *backends.Inventory) error {
	if err := m.from.reopen(); err != nil {
		return err
	}
	// A backend would make a store of stock Atlantis ours.
	if err := m.from.prepare(ctx, !source.Stock); err != nil {
		return err
	}
	err := inParallel(ctx, source.Locks, func(ctx context.Context, lock backends.InventoryLock) error {
		if lock.ID != "" {
			_, err := m.from.backend.Release(ctx, enhanced.ReleaseRequest{
				LockID: lock.ID, Force: true, Actor: m.actor, Reason: "it was migrated to " + m.to.name(),
			})
			if isDecided(err) {
				err = nil // it is gone, or is another one now: what is left is counted
			}
			return err
		}
		for _, key := range stockKeysOf(lock.Resource) {
			err := m.from.stock.Replace(ctx, backends.StockLock, key, func(value string) (string, error) {
				found, err := backends.DecodeStockLock(key, value)
				if err != nil || !backends.SameForm(sanitized(found), lock.OriginalLock) {
					return value, nil // it is another one, and stays
				}
				return "", nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for kind, values := range map[backends.StockKind]map[string]string{
		backends.StockStatus: source.Statuses, backends.StockCommandLock: source.CommandLocks,
	} {
		for key, want := range values {
			err := m.from.stock.Replace(ctx, kind, key, func(value string) (string, error) {
				if !backends.SameStatus(kind, key, value, want) {
					return value, nil
				}
				return "", nil
			})
			if err != nil {
				return err
			}
		}
	}
	left, err := m.from.inventory(ctx)
	if err != nil {
		return err
	}
	if n := len(left.Locks) + len(left.Statuses) + len(left.CommandLocks); n > 0 {
		return withHint(fmt.Errorf("%s left in the source, which have changed since", count(n, "record")), "migrate once more")
	}
	return nil
}

// stockKeysOf are the keys under which stock Atlantis can have a lock: the present
// one, and that of before v0.40, when projects had no names.
func stockKeysOf(resource enhanced.ResourceIdentifier) []string {
	key := resource.LegacyKey()
	if resource.Name != "" {
		return []string{key}
	}
	return []string{key, strings.TrimSuffix(key, "/")}
}

func sanitized(lock *models.ProjectLock) *models.ProjectLock {
	clean := enhanced.SanitizeProjectLock(*lock)
	return &clean
}
