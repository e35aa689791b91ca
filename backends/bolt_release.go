package backends

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

const (
	// maxStep bounds the resources that one step changes, so that no other
	// caller waits long for it.
	maxStep = 500
	// closingPage is how many locks go at a time when there are more.
	closingPage = 250
	// closingTimeout ends the mark of a pull request whose locks are being
	// released, in case the process that does it died.
	closingTimeout = time.Minute
)

// ReleaseLock releases the lock with the ID. A lock that was released before,
// by whomever, is released: the answer is nil while that is remembered. See
// [enhanced.Backend].
func (b *BoltBackend) ReleaseLock(ctx context.Context, lockID string) error {
	_, err := b.changeLock(ctx, "release", lockID, func(s *repositoryStep, f *finding) error {
		return s.finish(f, change{actor: f.record.Owner, cause: enhanced.CauseRequest})
	})
	if errors.Is(err, errReleased) {
		return nil
	}
	return err
}

// Release releases one lock under a condition. See [enhanced.Backend].
func (b *BoltBackend) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	if err := request.Validate(); err != nil {
		return nil, err
	}
	var lock *enhanced.EnhancedLock
	var err error
	if request.LockID != "" {
		lock, err = b.changeLock(ctx, "release", request.LockID, func(s *repositoryStep, f *finding) error {
			if request.Resource != (enhanced.ResourceIdentifier{}) && request.Resource.Normalized() != f.resource {
				return enhanced.NewUnknownLockError(request.LockID)
			}
			return s.release(f, request)
		})
		if err != nil {
			return releasedBefore(request, err)
		}
	} else {
		lock, err = b.releaseResource(ctx, request)
	}
	if err != nil {
		return nil, err
	}
	lock.State = enhanced.LockStateReleased
	return lock, nil
}

func (b *BoltBackend) releaseResource(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	resource := request.Resource.Normalized()
	return decide(ctx, b.committer, "release "+resource.String(), func(batch *batch) (*enhanced.EnhancedLock, error) {
		s := b.repositoryStep(batch, resource.Namespace)
		f, _, err := s.settle(resource)
		switch {
		case err != nil:
			return nil, err
		case f.status == unreadable:
			return nil, enhanced.NewCorruptError(resource, f.name)
		case f.status == reserved && request.Force:
			c := change{actor: cmp.Or(request.Actor, request.Owner, f.record.Owner), cause: enhanced.CauseForced, reason: request.Reason}
			return f.lock(), errors.Join(s.endReservation(resource, c), s.serve(resource))
		case f.status != held && f.status != heldElsewhere, request.Reservation:
			return nil, enhanced.NewNotFoundError(resource)
		}
		lock := f.lock()
		err = enhanced.NewNotFoundError(resource)
		if f.status == held {
			err = s.release(&f, request)
		}
		if isDecision(err) {
			if rival, rivalErr := s.endRequestedRival(&f, request); rival != nil || rivalErr != nil {
				return rival, rivalErr
			}
		}
		return lock, err
	})
}

// release ends a held lock if the request has the right to.
func (s *repositoryStep) release(f *finding, request enhanced.ReleaseRequest) error {
	c, err := releaseChange(request, f)
	if err != nil {
		return err
	}
	if s.keeps(request, f) {
		return s.reserve(f, c)
	}
	return s.finish(f, c)
}

// releaseChange checks the request's right to release what was found.
func releaseChange(request enhanced.ReleaseRequest, f *finding) (change, error) {
	holder := f.owner()
	c := change{
		actor:  cmp.Or(request.Actor, request.Owner, holder.String()),
		cause:  enhanced.CauseRequest,
		reason: request.Reason,
	}
	if request.Force {
		c.cause = enhanced.CauseForced
		return c, nil
	}
	if n := request.PullNumber; n != nil && (holder.Kind != enhanced.OwnerPull || holder.Number != *n) {
		return c, enhanced.NewDeniedError(f.resource, f.lock(), cmp.Or(request.Actor, "that pull request"))
	}
	if request.Owner != "" && request.Owner != holder.String() {
		owner, err := enhanced.ParseOwner(request.Owner)
		if err != nil {
			return c, err
		}
		if !owner.SamePull(holder) {
			return c, enhanced.NewDeniedError(f.resource, f.lock(), request.Owner)
		}
	}
	return c, nil
}

// ReleaseByPull releases all locks of a pull request. See [enhanced.Backend].
func (b *BoltBackend) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	stock, err := b.reconcile(ctx, repository)
	if err != nil {
		return nil, err
	}
	c := change{actor: actor, cause: enhanced.CausePull}
	var released []*enhanced.EnhancedLock
	for {
		page, err := decide(ctx, b.committer, "release the locks of a pull request of "+repository, func(batch *batch) (releasedPage, error) {
			return b.repositoryStep(batch, repository).releaseByPull(number, stock.rivals, c)
		})
		released = append(released, page.locks...)
		if err != nil || !page.more {
			return released, err
		}
	}
}

// releasedPage is what one step of ReleaseByPull has released, and whether
// there is more.
type releasedPage struct {
	locks []*enhanced.EnhancedLock
	more  bool
}

// releaseByPull releases a page of a pull request's locks, all of them if they
// fit in one step. While more remain, the pull request can't take new ones.
func (s *repositoryStep) releaseByPull(number int, rivals []rival, c change) (releasedPage, error) {
	resources, owners := s.heldByPull(number, maxStep+1)
	for _, r := range rivals {
		text := r.owner.String()
		if r.resource.Namespace == s.name && r.owner.Number == number && s.legacy.Get([]byte(r.key)) != nil && !slices.Contains(owners, text) {
			owners = append(owners, text)
		}
	}
	for _, w := range s.waitersByPull(number, maxStep) {
		if !slices.Contains(owners, w.Owner) {
			owners = append(owners, w.Owner)
		}
	}
	for _, resource := range s.reservedBy(reservedByPull(number), maxStep) {
		if v := s.reservationOf(resource.Key()); v != nil && !slices.Contains(owners, v.Lock.Owner) {
			owners = append(owners, v.Lock.Owner)
		}
	}
	if err := ambiguousHosts(s.name, number, owners); err != nil {
		return releasedPage{}, err
	}
	var page releasedPage
	if page.more = len(resources) > maxStep; page.more {
		resources = resources[:closingPage]
	}
	// First, so that nothing is handed over to the one that goes.
	moreWait, err := s.dequeueByPull(number, c)
	if err != nil {
		return releasedPage{}, err
	}
	given, err := s.giveUp(reservedByPull(number), c)
	if err != nil {
		return releasedPage{}, err
	}
	moreWait = moreWait || len(given) == maxStep
	for _, owner := range owners {
		if err := s.setClosing(owner, page.more || moreWait); err != nil {
			return releasedPage{}, err
		}
	}
	var ended []finding
	for _, resource := range resources {
		f, _, err := s.settle(resource)
		if err != nil {
			return releasedPage{}, err
		}
		if owner := f.owner(); f.status != held || owner.Kind != enhanced.OwnerPull || owner.Number != number {
			if f.status == unreadable {
				s.backend.logger.Err("%s of pull request %d stays locked: record %q can't be read", resource, number, f.name)
			}
			// What leads to nothing must not come up on every page.
			if err := s.forgetOwners(resource, owners); err != nil {
				return releasedPage{}, err
			}
			continue
		}
		lock := f.lock()
		lock.State = enhanced.LockStateReleased
		page.locks = append(page.locks, lock)
		if err := s.end(&f, enhanced.EventReleased, c); err != nil {
			return releasedPage{}, err
		}
		ended = append(ended, f)
	}
	if err := s.succeedAll(ended, given, c); err != nil {
		return releasedPage{}, err
	}
	if page.more = page.more || moreWait; page.more {
		return page, nil
	}
	locks, err := s.endRivalsByPull(number, rivals, c)
	page.locks = append(page.locks, locks...)
	if err == nil && s.backend.config.Load().EnablePriorityQueue {
		err = s.put(releasedKey(number), appendNumber(nil, s.now))
	}
	return page, err
}

// ambiguousHosts refuses to guess between pull requests of several hosts. A
// record from before Atlantis stored the host counts for any.
func ambiguousHosts(repository string, number int, owners []string) error {
	var named []string
	for _, text := range owners {
		if owner, err := enhanced.ParseOwner(text); err == nil && owner.Host != "" {
			named = append(named, owner.Describe())
		}
	}
	if len(named) < 2 {
		return nil
	}
	return enhanced.NewInvalidError("pull request %d of %q exists on several hosts that hold locks: %s; release them one by one",
		number, repository, strings.Join(named, ", "))
}

// forgetOwners forgets that owners hold a resource, which they do not.
func (s *repositoryStep) forgetOwners(resource enhanced.ResourceIdentifier, owners []string) error {
	h := &s.memoryToChange().holdings
	for _, text := range owners {
		owner, err := enhanced.ParseOwner(text)
		if err != nil {
			return err
		}
		h.remove(owner, resource.Key())
	}
	return nil
}

// closing reports whether all locks of owner are being released right now.
func (r *repository) closing(owner string) bool {
	if r.isVacant(rangeClosing) {
		return false
	}
	since := number(r.get(closingKey(owner)))
	return since != 0 && r.now-since < closingTimeout.Microseconds()
}

func (s *repositoryStep) setClosing(owner string, on bool) error {
	key := closingKey(owner)
	switch {
	case on:
		return s.put(key, appendNumber(nil, s.now))
	case s.get(key) != nil:
		return s.delete(key)
	default:
		return nil
	}
}

// CleanupExpiredLocks ends every lease that is due. See [enhanced.Backend].
func (b *BoltBackend) CleanupExpiredLocks(ctx context.Context) (int, error) {
	ended := 0
	for {
		name, found, err := b.overdue(ctx)
		if err != nil {
			return ended, err
		}
		if !found {
			return ended, b.sweep(ctx)
		}
		page, err := decide(ctx, b.committer, "end the leases of "+name, func(batch *batch) (int, error) {
			return b.repositoryStep(batch, name).endDue()
		})
		if err != nil {
			return ended, err
		}
		ended += page
	}
}

// endDue ends up to maxStep due leases of the repository.
func (s *repositoryStep) endDue() (int, error) {
	ended := 0
	if err := s.endDueReservations(); err != nil {
		return 0, err
	}
	for _, key := range s.keysUntilNow(rangeDeadline, maxStep) {
		_, resourceKey, ok := splitDeadlineKey(key)
		resource, err := enhanced.ParseResourceKey(s.name, resourceKey)
		if ok && err == nil {
			_, record, err := s.settle(resource)
			if err != nil {
				return 0, err
			}
			if record != nil && record.expiredAt(s.now) {
				ended++
			}
		}
		// Normally gone with its lock. One that is left belongs to nothing
		// that can end, and would come up for ever.
		if s.get(key) != nil {
			if err := s.delete(key); err != nil {
				return 0, err
			}
		}
	}
	return ended, nil
}
