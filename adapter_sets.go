package enhanced

import "context"

var _ SetManager = (*LockingAdapter)(nil)

// LockAll locks all resources of a set or none. See
// [EnhancedLockManager.LockAll].
func (a *LockingAdapter) LockAll(ctx context.Context, requests []*EnhancedLockRequest) ([]*EnhancedLock, error) {
	sets, err := a.sets(ctx)
	if err != nil {
		return nil, err
	}
	locks, err := sets.LockAll(ctx, requests)
	if err == nil {
		err = a.keepTaken(ctx, takenLocks(locks)...)
	}
	if err != nil {
		return nil, err
	}
	return locks, nil
}

// ReplaceLocks makes the wanted locks all that an owner holds. See
// [EnhancedLockManager.ReplaceLocks].
func (a *LockingAdapter) ReplaceLocks(ctx context.Context, owner Owner, wanted []*EnhancedLockRequest) (*ReplacedLocks, error) {
	sets, err := a.sets(ctx)
	if err != nil {
		return nil, err
	}
	replaced, err := sets.ReplaceLocks(ctx, owner, wanted)
	if err == nil {
		a.tellFreed(ctx, replaced.Freed)
		err = a.keepTaken(ctx, takenLocks(replaced.Taken)...)
	}
	if err != nil {
		return nil, err
	}
	return replaced, nil
}

func (a *LockingAdapter) sets(ctx context.Context) (SetManager, error) {
	if err := a.requireEnabled(); err != nil {
		return nil, err
	}
	if err := a.requireStore(ctx); err != nil {
		return nil, err
	}
	sets, ok := a.manager.(SetManager)
	if !ok {
		return nil, NewInvalidError("the manager %T can't lock sets", a.manager)
	}
	return sets, nil
}
