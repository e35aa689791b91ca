package enhanced

import (
	"context"
	"errors"
)

// takenLock is a lock that the store has granted to a caller of the adapter's own
// methods, who has not been told yet.
type takenLock struct {
	id       string // empty where it is not known
	resource ResourceIdentifier
	owner    Owner
}

func takenLocks(locks []*EnhancedLock) []takenLock {
	taken := make([]takenLock, len(locks))
	for i, lock := range locks {
		taken[i] = takenLock{lock.ID, lock.Resource, ownerOf(lock)}
	}
	return taken
}

// keepTaken has the legacy database follow before the caller is told. If the store
// does not decide any longer, since that was changed while the call waited, the locks
// go back, and the caller is told that.
func (a *LockingAdapter) keepTaken(ctx context.Context, locks ...takenLock) error {
	if len(locks) == 0 {
		return nil
	}
	a.under.RLock()
	defer a.under.RUnlock()
	ctx, end := context.WithTimeout(ctx, a.state.Load().config.OperationTimeout) // others wait
	defer end()
	err := a.requireEnabled()
	if err == nil {
		err = a.requireStore(ctx)
	}
	if err == nil {
		for _, lock := range locks {
			a.tellFallback(ctx, lock.resource)
		}
		return nil
	}
	undo, cancel := a.operationContext()
	defer cancel()
	for _, lock := range locks {
		err = errors.Join(err, a.giveBack(undo, lock))
	}
	return err
}

// giveBack releases a lock that nobody was told of. The legacy database can have it,
// since it was given what the store holds: a user's is released there, too, while a pull
// request may have been told of it there.
func (a *LockingAdapter) giveBack(ctx context.Context, lock takenLock) error {
	_, err := a.manager.Release(ctx, ReleaseRequest{LockID: lock.id, Resource: lock.resource, Owner: lock.owner.String()})
	if isNotHeld(err) {
		err = nil
	}
	if a.legacy == nil || a.IsEnhancedModeEnabled() || lock.owner.Kind == OwnerPull {
		return err
	}
	project := lock.resource.Project()
	record, legacyErr := a.legacy.GetLock(project, lock.resource.Workspace)
	if record != nil && isRecordOf(*record, &EnhancedLock{Resource: lock.resource, Owner: lock.owner.String()}) {
		_, legacyErr = a.legacy.UnlockIfOwnedByPull(project, lock.resource.Workspace, record.Pull.Num)
	}
	if legacyErr != nil {
		err = errors.Join(err, legacyFailed(legacyErr))
	}
	return err
}

// tellFreed has the legacy database follow what the store has freed, if the store
// still decides.
func (a *LockingAdapter) tellFreed(ctx context.Context, locks []*EnhancedLock) {
	a.under.RLock()
	defer a.under.RUnlock()
	ctx, end := context.WithTimeout(ctx, a.state.Load().config.OperationTimeout) // others wait
	defer end()
	for _, lock := range locks {
		a.tellFallback(ctx, lock.Resource)
	}
}

// tellFallback has the legacy database follow a change that this adapter has made
// in the store. The log would tell, too, but later. The caller holds a.under for reading.
func (a *LockingAdapter) tellFallback(ctx context.Context, resource ResourceIdentifier) {
	config, err := a.enhancedConfig()
	if err != nil || config == nil {
		return
	}
	if f := a.fallbackFor(config); f != nil {
		f.told(ctx, resource)
	}
}
