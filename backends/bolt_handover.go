package backends

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// handOver gives a resource that is free to its next waiter, and reports whether
// there was one. Those who can't have it any more are passed over. Where stock
// Atlantis takes several resources for one, the next of all their waiters is it.
func (s *repositoryStep) handOver(resource enhanced.ResourceIdentifier) (bool, error) {
	step, next, err := s, (*waiter)(nil), error(nil)
	if next, err = s.nextWaiter(resource); err != nil {
		return false, err
	}
	for _, other := range s.backend.turns.sharing(resource) {
		beside := s.backend.repositoryStep(s.batch, other.Namespace)
		rival, err := beside.nextWaiter(other)
		switch {
		case err != nil:
			return false, err
		case rival == nil || beside.inspect(other).status != free:
		case next == nil || rival.isBefore(next):
			step, next = beside, rival
		}
	}
	if next == nil {
		return false, nil
	}
	return true, step.grantTo(next)
}

// isBefore compares waiters of different queues.
func (w *waiter) isBefore(other *waiter) bool {
	return cmp.Or(
		compareMoved(w, other), cmp.Compare(other.Priority, w.Priority), cmp.Compare(w.Enqueued, other.Enqueued),
	) < 0
}

// nextWaiter returns the first waiter that can have a resource, and takes those
// before it out of the queue.
func (s *repositoryStep) nextWaiter(resource enhanced.ResourceIdentifier) (*waiter, error) {
	keeper := s.backend.keeperOf(s.repository, resource)
	var passed map[string]bool
	for {
		var next *waiter
		s.eachWaiter(resource, func(w *waiter) bool {
			if passed[w.Request] {
				return true
			}
			next = w
			return false
		})
		var err error
		switch {
		case next == nil:
			return nil, nil
		case s.closing(next.Owner):
			err = s.dequeue(next, enhanced.EventCancelled, change{actor: enhanced.SystemStore, cause: enhanced.CausePull},
				closingError(resource, next.Owner))
		case !s.backend.isAlive(s.name, next.waiterRecord, s.now):
			err = s.dequeueDead(next)
		case next.Set != nil:
			var ready bool
			if ready, err = s.isSetReady(next); ready {
				return next, err
			}
			passed = with(passed, next.Request)
		case keeper != nil && !isMoved(next.rank):
			passed = with(passed, next.Request)
		default:
			return s.standIn(next), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// with returns the set with one more in it; a nil map is an empty one.
func with(set map[string]bool, one string) map[string]bool {
	if set == nil {
		set = make(map[string]bool)
	}
	set[one] = true
	return set
}

// serve hands over a resource that has just been freed.
func (s *repositoryStep) serve(resource enhanced.ResourceIdentifier) error {
	waits := len(s.backend.turns.sharing(resource)) > 0
	s.eachPlace(resource, func(queue.Rank, []byte) bool {
		waits = true
		return false
	})
	if !waits {
		return nil
	}
	_, _, err := s.settle(resource)
	return err
}

// grantTo gives a waiter its lock, and tells its call after the commit.
func (s *repositoryStep) grantTo(w *waiter) error {
	if w.Set != nil {
		_, err := s.grantSet(w)
		return err
	}
	original, err := decodeProjectLock(w.Lock)
	if err != nil {
		return err
	}
	if err := s.removeWaiter(w); err != nil {
		return err
	}
	lock, err := s.grantWaiter(w, original)
	if err != nil {
		return err
	}
	name := requestName{s.name, w.Request}
	s.batch.after = append(s.batch.after, func() { s.backend.turns.answer(name, lock, nil) })
	return nil
}

// grantWaiter writes the lock of a waiter that has left its queue.
func (s *repositoryStep) grantWaiter(w *waiter, original *models.ProjectLock) (*enhanced.EnhancedLock, error) {
	record := &lockRecord{
		Owner: w.Owner, Priority: w.Priority, Acquired: s.now, Request: w.Request, Metadata: w.Metadata,
	}
	switch {
	case w.Detached:
		record.Pending, record.Expires = true, s.now+s.claimTime()
	case w.Lease != 0:
		record.Expires = s.now + w.Lease
	}
	return s.grant(w.resource, record, *original, enhanced.EventGranted, nil,
		change{actor: w.Owner, cause: enhanced.CauseHandOver, request: w.Request})
}

// dequeueOwn takes out what a new holder has in the queue: nobody waits behind
// himself.
func (s *repositoryStep) dequeueOwn(owner string, resource enhanced.ResourceIdentifier, lock *enhanced.EnhancedLock) error {
	var errs []error
	for _, own := range s.waitersOf(owner, resource) {
		errs = append(errs, s.dequeue(own, enhanced.EventCancelled, change{actor: owner, cause: enhanced.CauseHandOver},
			enhanced.NewHeldError(resource, lock)))
	}
	return errors.Join(errs...)
}

// waitersOf returns an owner's waiters for a resource.
func (s *repositoryStep) waitersOf(ownerText string, resource enhanced.ResourceIdentifier) (found []*waiter) {
	if s.bucket == nil || s.isVacant(rangeWaits) {
		return nil
	}
	owner, err := enhanced.ParseOwner(ownerText)
	if err != nil {
		return nil
	}
	prefix := waitsPrefix(owner, resource.Key())
	cursor := s.bucket.Cursor()
	for key, _ := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = cursor.Next() {
		if w := s.waiterOf(string(key[len(prefix):])); w != nil {
			found = append(found, w)
		}
	}
	return found
}

// waitersByPull returns up to limit waiters of a pull request, on whatever host.
func (r *repository) waitersByPull(number, limit int) (found []*waiter) {
	if r.bucket == nil {
		return nil
	}
	prefix := pullPrefix(number)
	prefix[0] = rangeWaits
	cursor := r.bucket.Cursor()
	for key, _ := cursor.Seek(prefix); bytes.HasPrefix(key, prefix) && len(found) < limit; key, _ = cursor.Next() {
		_, rest, _ := bytes.Cut(key, []byte{0})
		_, request, _ := strings.Cut(string(rest), "\x00")
		if w := r.waiterOf(request); w != nil {
			found = append(found, w)
		}
	}
	return found
}

// dequeueByPull takes up to maxStep waiters of a pull request out of all queues,
// and reports whether there may be more.
func (s *repositoryStep) dequeueByPull(number int, c change) (more bool, err error) {
	waiters := s.waitersByPull(number, maxStep)
	for _, w := range waiters {
		if err := s.dequeue(w, enhanced.EventCancelled, c, cancelledError(w.resource, w.Owner, c.actor)); err != nil {
			return false, err
		}
	}
	return len(waiters) == maxStep, nil
}

// CancelRequest takes an owner's requests for a resource out of the queue. See
// [enhanced.Backend].
func (b *BoltBackend) CancelRequest(ctx context.Context, resource enhanced.ResourceIdentifier, owner, actor string) error {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return err
	}
	if _, err := enhanced.ParseOwner(owner); err != nil {
		return err
	}
	_, err := decide(ctx, b.committer, "cancel a request for "+resource.String(), func(batch *batch) (struct{}, error) {
		s := b.repositoryStep(batch, resource.Namespace)
		waiters := s.waitersOf(owner, resource)
		if len(waiters) == 0 {
			return struct{}{}, enhanced.NewNotWaitingError(resource, owner)
		}
		var errs []error
		for _, w := range waiters {
			errs = append(errs, s.dequeue(w, enhanced.EventCancelled, change{actor: actor, cause: enhanced.CauseRequest}, cancelledError(w.resource, w.Owner, actor)))
		}
		return struct{}{}, errors.Join(errs...)
	})
	return err
}

// GetQueueStatus describes the waiters. See [enhanced.Backend].
func (b *BoltBackend) GetQueueStatus(ctx context.Context) (*enhanced.QueueStatus, error) {
	status := &enhanced.QueueStatus{QueuesByPriority: make(map[enhanced.Priority]int)}
	err := b.viewNow(ctx, "queue status", func(tx *bbolt.Tx, now int64) error {
		eachRepository(tx, now, func(r *repository) {
			r.allWaiters(func(w *waiter) {
				if b.isAlive(r.name, w.waiterRecord, now) {
					status.Add(w.pending())
				}
			})
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return status, nil
}

// pending is the request as it was made.
func (w *waiter) pending() *enhanced.EnhancedLockRequest {
	r := &enhanced.EnhancedLockRequest{
		ID: w.Request, Resource: w.resource, Priority: w.Priority, Timeout: enhanced.NoTimeout, Metadata: w.Metadata,
		RequestedAt: time.UnixMicro(w.Enqueued), Detached: w.Detached,
	}
	if w.Lease != 0 {
		r.Timeout = time.Duration(w.Lease) * time.Microsecond
	}
	original, err := decodeProjectLock(w.Lock)
	if err != nil {
		return r
	}
	r.Project, r.Workspace, r.User = original.Project, original.Workspace, original.User
	if owner, err := enhanced.ParseOwner(w.Owner); err == nil && owner.Kind == enhanced.OwnerPull {
		r.Pull = &original.Pull
	}
	return r
}
