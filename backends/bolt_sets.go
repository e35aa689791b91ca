package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// AcquireAll takes the locks of a set, or none. See [enhanced.SetLocker].
func (b *BoltBackend) AcquireAll(ctx context.Context, requests []*enhanced.EnhancedLockRequest, wait bool) ([]*enhanced.EnhancedLock, error) {
	config := b.config.Load()
	set, err := newSetToTake(requests, config.DefaultTimeout, config.MaxTimeout, b.ExcludesByLegacyKey())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if wait && config.EnablePriorityQueue {
		a, err := b.waitForSet(ctx, config.QueueTimeout, set)
		for range set.asked {
			b.turns.countTurn(time.Since(start), err)
		}
		return set.inOrder(a.set), set.setTimeoutError(err)
	}
	a, err := decide(ctx, b.committer, set.operation(), func(batch *batch) (acquisition, error) {
		return b.repositoryStep(batch, set.requests[0].Resource.Namespace).acquireAll(set.requests, false)
	})
	for range set.asked {
		countRequest(&b.recorder, a.granted, time.Since(start), err)
	}
	a.report(ctx, err)
	return set.inOrder(a.set), err
}

// acquireAll decides a set. One that can wait, and has to, enters the queues.
func (s *repositoryStep) acquireAll(set []*enhanced.EnhancedLockRequest, wait bool) (acquisition, error) {
	queued, a, err := s.recallSet(set)
	if err != nil || a.granted || queued != nil && wait {
		return a, err
	}
	if err := s.admit(set[0]); err != nil {
		return acquisition{}, err
	}
	found, blocked, err := s.inspectSet(set)
	owner := set[0].Owner()
	switch {
	case err != nil:
		return acquisition{}, err
	case queued != nil && len(blocked) == 0:
		locks, err := s.grantSet(queued)
		return acquisitionOf(locks), err
	case len(blocked) == 0:
		return s.takeAll(set, found)
	case wait && !slices.ContainsFunc(found, func(f finding) bool { return f.status == unreadable || isOwn(&f, owner) && !f.isTakeable(owner) }):
		return s.enqueueSet(set, found)
	default:
		return acquisition{}, enhanced.NewSetHeldError(len(set), len(blocked), owner, blocked)
	}
}

func acquisitionOf(locks []*enhanced.EnhancedLock) acquisition {
	if len(locks) == 0 {
		return acquisition{}
	}
	return acquisition{lock: locks[0], set: locks, granted: true}
}

// recallSet answers a set that was granted before, and returns the first waiter of
// one that waits.
func (s *repositoryStep) recallSet(set []*enhanced.EnhancedLockRequest) (*waiter, acquisition, error) {
	mark := setMark{set[0].ID, len(set)}
	var locks []*enhanced.EnhancedLock
	var queued []*waiter
	for _, r := range set {
		known, answer, err := s.recall(r)
		if err != nil {
			return nil, acquisition{}, err
		}
		if known && answer.lock.State != enhanced.LockStatePending {
			locks = append(locks, answer.lock)
		}
		w := s.waiterOf(r.ID)
		switch {
		case w == nil:
		case w.Owner != r.Owner().String() || w.resource != r.Resource || w.Set == nil || *w.Set != mark:
			return nil, acquisition{}, reusedError(r)
		default:
			queued = append(queued, w)
		}
	}
	if len(locks) == len(set) {
		a := acquisitionOf(locks)
		a.known = true
		return nil, a, nil
	}
	switch {
	case len(queued) == 0:
		return nil, acquisition{}, nil
	case len(queued) == len(set):
		return queued[0], acquisition{waits: true}, nil
	case len(s.membersOf(queued[0])) == len(set): // it is whole, and so another set
		at := slices.IndexFunc(set, func(r *enhanced.EnhancedLockRequest) bool { return r.ID == queued[0].Request })
		return nil, acquisition{}, reusedError(set[at])
	default:
		return nil, acquisition{}, s.dequeueDamaged(queued[0])
	}
}

// admit refuses who takes no locks: a pull request that was closed, or that is
// being closed.
func (s *repositoryStep) admit(r *enhanced.EnhancedLockRequest) error {
	if r.Pull != nil {
		if err := errors.Join(s.checkTombstone(r), s.noteTry(r.Owner())); err != nil {
			return err
		}
	}
	if owner := r.Owner().String(); s.closing(owner) {
		return closingError(r.Resource, owner)
	}
	return nil
}

// inspectSet settles the resources of a set, and says which can't be taken.
func (s *repositoryStep) inspectSet(set []*enhanced.EnhancedLockRequest) (found []finding, blocked []enhanced.Blocked, err error) {
	// Settling one can grant another, so they are judged when all are settled.
	for _, r := range set {
		if _, _, err := s.settle(r.Resource); err != nil {
			return nil, nil, err
		}
	}
	if err := s.backend.serveAll(s.batch); err != nil {
		return nil, nil, err
	}
	for _, r := range set {
		f := s.inspect(r.Resource)
		if f.status == free {
			f = s.backend.keptForSet(s.repository, f)
		}
		found = append(found, f)
		switch f.status {
		case held, heldElsewhere, reserved:
			if !f.isTakeable(r.Owner()) {
				blocked = append(blocked, enhanced.Blocked{Resource: r.Resource, Holder: f.lock()})
			}
		case unreadable:
			blocked = append(blocked, enhanced.Blocked{Resource: r.Resource, Record: f.name})
		case free:
		default:
			return nil, nil, fmt.Errorf("%s is still to be settled", r.Resource)
		}
	}
	return found, blocked, nil
}

// isTakeable reports whether an owner can take what is not free: what is kept for
// it, or waits for it to claim it.
func (f *finding) isTakeable(owner enhanced.Owner) bool {
	return isOwn(f, owner) && (f.status == reserved || f.status == held && f.record.Pending)
}

// isKept reports whether an owner holds what was found, and has claimed it.
func (f *finding) isKept(owner enhanced.Owner) bool {
	return f.status == held && isOwn(f, owner) && !f.record.Pending
}

func isOwn(f *finding, owner enhanced.Owner) bool {
	if f.record == nil && f.original == nil {
		return false
	}
	holder := f.owner()
	return holder == owner || isSamePull(holder, owner)
}

// takeAll grants the locks of requests that can have them.
func (s *repositoryStep) takeAll(set []*enhanced.EnhancedLockRequest, found []finding) (acquisition, error) {
	locks := make([]*enhanced.EnhancedLock, 0, len(set))
	var claimed []string
	for i, r := range set {
		a, err := s.takeFound(r, &found[i])
		if err != nil {
			return acquisition{}, err
		}
		locks, claimed = append(locks, a.lock), append(claimed, a.claimed...)
	}
	a := acquisitionOf(locks)
	a.claimed = claimed
	return a, nil
}

func (s *repositoryStep) takeFound(r *enhanced.EnhancedLockRequest, f *finding) (acquisition, error) {
	if f.status == held {
		return s.claim(f, r)
	}
	lock, err := s.take(r, r.Owner().String())
	return acquisition{lock: lock, granted: true}, err
}

// ReplaceAll makes the wanted locks all that an owner holds in a repository. See
// [enhanced.SetLocker].
func (b *BoltBackend) ReplaceAll(ctx context.Context, repository string, owner enhanced.Owner, wanted []*enhanced.EnhancedLockRequest) (*enhanced.ReplacedLocks, error) {
	config := b.config.Load()
	set, err := newSetToHold(repository, owner, wanted, config.DefaultTimeout, config.MaxTimeout, b.ExcludesByLegacyKey())
	if err != nil {
		return nil, err
	}
	if _, err := b.reconcile(ctx, repository); err != nil { // stock may have locked for the pull request
		return nil, err
	}
	start := time.Now()
	replaced, err := decide(ctx, b.committer, fmt.Sprintf("replace the locks of %s in %q", owner, repository),
		func(batch *batch) (*replacement, error) {
			return b.repositoryStep(batch, repository).replaceAll(owner, set.requests)
		})
	if err != nil {
		for range set.asked {
			countRequest(&b.recorder, false, time.Since(start), err)
		}
		return nil, err
	}
	for range replaced.Taken {
		countRequest(&b.recorder, true, time.Since(start), nil)
	}
	return replaced.answer(ctx, set), nil
}

func (s *repositoryStep) replaceAll(owner enhanced.Owner, set []*enhanced.EnhancedLockRequest) (*replacement, error) {
	for _, r := range set {
		if _, _, err := s.recall(r); err != nil {
			return nil, err
		}
		if w := s.waiterOf(r.ID); w != nil && (w.Owner != owner.String() || w.resource != r.Resource || w.Set != nil) {
			return nil, reusedError(r)
		}
	}
	// First, since what ends here can be granted to others.
	freed, err := s.unwanted(owner, set)
	if err != nil {
		return nil, err
	}
	found, _, err := s.inspectSet(set)
	if err != nil {
		return nil, err
	}
	if count := len(set) + len(freed); count > enhanced.MaxSetSize {
		return nil, tooManyError(s.name, owner, count)
	}
	// Who takes nothing can be refused nothing: asked again it is the same answer.
	if slices.ContainsFunc(found, func(f finding) bool { return !f.isKept(owner) }) {
		if err := s.admit(set[0]); err != nil {
			return nil, err
		}
	}
	var blocked []enhanced.Blocked
	for i, r := range set {
		switch f := &found[i]; {
		case f.status == unreadable:
			blocked = append(blocked, enhanced.Blocked{Resource: r.Resource, Record: f.name})
		case f.status == heldElsewhere, f.status != free && !isOwn(f, owner):
			blocked = append(blocked, enhanced.Blocked{Resource: r.Resource, Holder: f.lock()})
		}
	}
	if len(blocked) > 0 {
		return nil, enhanced.NewSetHeldError(len(set), len(blocked), owner, blocked)
	}
	return s.replace(owner, set, found, freed)
}

// replace takes what is wanted before it frees the rest: who waits for both could
// have them otherwise.
func (s *repositoryStep) replace(owner enhanced.Owner, set []*enhanced.EnhancedLockRequest, found []finding, freed []enhanced.ResourceIdentifier) (*replacement, error) {
	replaced := &replacement{}
	for i, r := range set {
		f := &found[i]
		if f.isKept(owner) {
			replaced.Held = append(replaced.Held, f.lock())
			continue
		}
		a, err := s.takeFound(r, f)
		if err != nil {
			return nil, err
		}
		replaced.Held, replaced.Taken = append(replaced.Held, a.lock), append(replaced.Taken, a.lock)
		replaced.claimed = append(replaced.claimed, a.claimed...)
	}
	var err error
	replaced.Freed, err = s.free(owner, freed)
	return replaced, err
}

// free ends an owner's locks on resources, and what a pull request has only reserved:
// what it wants of that it has taken by now. All are free before the first one is
// handed over, so that a set that waits for several can have them.
func (s *repositoryStep) free(owner enhanced.Owner, resources []enhanced.ResourceIdentifier) ([]*enhanced.EnhancedLock, error) {
	c := change{actor: owner.String(), cause: enhanced.CauseRequest}
	var ended []finding
	var locks []*enhanced.EnhancedLock
	for _, resource := range resources {
		f := s.inspect(resource)
		if f.status != held || !isOwn(&f, owner) {
			continue
		}
		lock := f.lock()
		lock.State = enhanced.LockStateReleased
		locks = append(locks, lock)
		if err := s.end(&f, enhanced.EventReleased, c); err != nil {
			return nil, err
		}
		ended = append(ended, f)
	}
	var given []enhanced.ResourceIdentifier
	if owner.Kind == enhanced.OwnerPull {
		var err error
		if given, err = s.giveUp(reservesKey(owner, ""), c); err != nil {
			return nil, err
		}
	}
	return locks, s.succeedAll(ended, given, c)
}

// unwanted returns what an owner holds beside a set.
func (s *repositoryStep) unwanted(owner enhanced.Owner, set []*enhanced.EnhancedLockRequest) (freed []enhanced.ResourceIdentifier, err error) {
	wanted := make(map[enhanced.ResourceIdentifier]bool, len(set))
	for _, r := range set {
		wanted[r.Resource] = true
	}
	for _, resource := range s.heldBy(owner) {
		if wanted[resource] {
			continue
		}
		f, _, err := s.settle(resource)
		if err != nil {
			return nil, err
		}
		if f.status == held && isOwn(&f, owner) {
			freed = append(freed, resource)
		}
	}
	return freed, nil
}
