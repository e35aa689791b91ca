package backends

import (
	"context"
	"errors"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/recorder"
)

// TryAcquireLock takes the lock and returns it with true, or returns the
// holder's with false. See [enhanced.Backend].
func (b *BoltBackend) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	config := b.config.Load()
	r, err := enhanced.NormalizeRequest(request, config.DefaultTimeout, config.MaxTimeout)
	if err != nil {
		return nil, false, err
	}
	start := time.Now()
	a, err := decide(ctx, b.committer, "acquire "+r.Resource.String(), func(batch *batch) (acquisition, error) {
		return b.repositoryStep(batch, r.Resource.Namespace).acquire(r, false)
	})
	countRequest(&b.recorder, a.granted, time.Since(start), err)
	a.report(ctx, err)
	return a.lock, a.granted, err
}

// acquisition is the answer to a request: a new lock, or the holder's. The
// request may wait for that.
type acquisition struct {
	lock    *enhanced.EnhancedLock
	granted bool
	// set are the locks of a set, of which lock is the first.
	set []*enhanced.EnhancedLock
	// known is set when the request had got the lock before.
	known bool
	waits bool
	// claimed are the IDs of the locks that the owner had been given, and now has claimed.
	claimed []string
}

// report says how a call got the lock that it answers with.
func (a acquisition) report(ctx context.Context, err error) {
	if err == nil && a.granted {
		reportClaims(ctx, a.claimed)
	}
}

// reportClaims says of some of the locks that a call answers with that it has claimed
// them.
func reportClaims(ctx context.Context, ids []string) {
	if len(ids) > 0 {
		enhanced.ReportGrant(ctx, enhanced.EventClaimed, ids...)
	}
}

// countRequest counts a decided request.
func countRequest(r *recorder.Recorder, acquired bool, wait time.Duration, err error) {
	switch {
	case err == nil && acquired:
		r.Acquired(wait)
	case err == nil || isDecision(err) && !errors.Is(err, enhanced.ErrTimeout):
		r.Refused()
	default:
		r.Failed()
	}
}

// closingError is the answer to a pull request whose locks are being released.
func closingError(resource enhanced.ResourceIdentifier, owner string) error {
	return &enhanced.LockError{
		Code:     enhanced.ErrCodePermissionDenied,
		Message:  resource.String() + ": all locks of " + enhanced.DescribeOwner(owner) + " are being released",
		Resource: resource,
	}
}

// acquire decides a request. One that can wait, and has to, enters the queue.
func (s *repositoryStep) acquire(r *enhanced.EnhancedLockRequest, canWait bool) (acquisition, error) {
	if known, answer, err := s.recall(r); known {
		if err == nil && answer.lock.State == enhanced.LockStatePending {
			f := s.inspect(r.Resource)
			return s.claim(&f, r)
		}
		return answer, err
	}
	asker := r.Owner()
	owner := asker.String()
	if w := s.waiterOf(r.ID); w != nil && (w.Owner != owner || w.resource != r.Resource || w.Set != nil) {
		return acquisition{}, reusedError(r)
	}
	if r.Pull != nil {
		if err := errors.Join(s.checkTombstone(r), s.noteTry(asker)); err != nil {
			return acquisition{}, err
		}
	}
	f, _, err := s.settle(r.Resource)
	if err != nil {
		return acquisition{}, err
	}
	if f.status == free {
		f = s.backend.keptForSet(s.repository, f)
	}
	switch f.status {
	case unreadable:
		return acquisition{}, enhanced.NewCorruptError(r.Resource, f.name)
	case held, heldElsewhere, reserved:
		holder := f.owner()
		own := holder == asker || isSamePull(holder, asker)
		switch {
		case own && f.status == reserved && !s.closing(owner): // it takes back what it gave
		case own && f.status == held && f.record.Pending:
			return s.claim(&f, r)
		case own || s.closing(owner):
			return acquisition{lock: f.lock()}, nil
		case canWait:
			return s.enqueue(r, &f, false)
		case r.Detached && s.backend.config.Load().EnablePriorityQueue:
			return s.enqueueDetached(r, &f)
		default:
			return acquisition{lock: f.lock()}, nil
		}
	default:
	}
	if s.closing(owner) {
		return acquisition{}, closingError(r.Resource, owner)
	}
	lock, err := s.take(r, owner)
	return acquisition{lock: lock, granted: true}, err
}

// take grants a request the lock on a free resource.
func (s *repositoryStep) take(r *enhanced.EnhancedLockRequest, owner string) (*enhanced.EnhancedLock, error) {
	record := &lockRecord{
		Owner:    owner,
		Priority: r.Priority,
		Acquired: s.now,
		Request:  r.ID,
		Metadata: r.Metadata,
	}
	if r.Timeout != enhanced.NoTimeout {
		record.Expires = s.now + r.Timeout.Microseconds()
	}
	return s.grant(r.Resource, record, r.ProjectLock(), enhanced.EventAcquired, nil,
		change{actor: owner, cause: enhanced.CauseRequest, request: r.ID})
}

// RefreshLock makes the lease end extension from now. See [enhanced.Backend].
func (b *BoltBackend) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	if err := checkExtension(extension, b.config.Load().MaxTimeout); err != nil {
		return err
	}
	_, err := b.changeLock(ctx, "refresh", lockID, func(s *repositoryStep, f *finding) error {
		if f.record.Pending {
			return unclaimedError(lockID, f.resource)
		}
		if f.record.Expires == 0 {
			return permanentError(lockID, f.resource)
		}
		before := *f.record
		f.record.Expires = s.now + extension.Microseconds()
		return errors.Join(
			s.delete(deadlineKey(before.Expires, f.resource.Key())),
			s.putRecord(f.resource, f.record),
			s.log(enhanced.EventRefreshed, f.resource, &before, f.record,
				change{actor: f.record.Owner, cause: enhanced.CauseRequest}),
		)
	})
	return err
}

func checkExtension(extension, limit time.Duration) error {
	if extension < time.Millisecond || extension > limit {
		return enhanced.NewInvalidError("extension %v is not a lease; give 1ms to max_timeout %v", extension, limit)
	}
	return nil
}

// permanentError is the answer to a refresh of a lock without lease.
func permanentError(lockID string, resource enhanced.ResourceIdentifier) error {
	return enhanced.NewInvalidError("lock %s on %s has no lease to refresh; it is held until released", lockID, resource)
}

// unclaimedError is the answer to a refresh of a lock that nobody has claimed yet.
func unclaimedError(lockID string, resource enhanced.ResourceIdentifier) error {
	return enhanced.NewInvalidError("lock %s on %s is not claimed yet; its owner claims it by asking for it", lockID, resource)
}

// TransferLock gives a held lock to another owner. See [enhanced.Backend].
func (b *BoltBackend) TransferLock(ctx context.Context, lockID, newOwner string) error {
	owner, err := enhanced.ParseOwner(newOwner)
	if err != nil {
		return err
	}
	_, err = b.changeLock(ctx, "transfer", lockID, func(s *repositoryStep, f *finding) error {
		original, err := enhanced.TransferProjectLock(*f.original, owner)
		if err != nil || f.record.Owner == newOwner {
			return err
		}
		before := *f.record
		if err := s.remove(f.resource, f.record, enhanced.EventTransferred); err != nil {
			return err
		}
		if f.record.Mirror != "" {
			if err := s.deleteLegacy(f.legacyKey); err != nil {
				return err
			}
		}
		f.record.Owner, f.record.Request = newOwner, ""
		if f.record.Pending { // who is given it has it
			f.record.Pending, f.record.Expires = false, 0
		}
		_, err = s.grant(f.resource, f.record, original, enhanced.EventTransferred, &before,
			change{actor: before.Owner, cause: enhanced.CauseRequest})
		return err
	})
	return err
}

// changeLock runs fn on the held lock with the ID, and returns the lock as it
// was before.
func (b *BoltBackend) changeLock(ctx context.Context, operation, lockID string, fn func(s *repositoryStep, f *finding) error) (*enhanced.EnhancedLock, error) {
	tag, token, ok := enhanced.ParseLockID(lockID)
	if !ok {
		return nil, enhanced.NewUnknownLockError(lockID)
	}
	return decide(ctx, b.committer, operation+" lock "+lockID, func(batch *batch) (*enhanced.EnhancedLock, error) {
		s := b.repositoryStepByTag(batch, tag)
		if s == nil {
			return nil, enhanced.NewUnknownLockError(lockID)
		}
		f, err := s.settleID(lockID, token)
		if err != nil {
			return nil, err
		}
		lock := f.lock()
		return lock, fn(s, f)
	})
}

// errReleased is the answer to a lock ID whose lock was released. Only releases
// tell it from an ID that never was.
var errReleased = errors.New("it was released before")

// settleID returns the held lock with the ID.
func (s *repositoryStep) settleID(lockID string, token int64) (*finding, error) {
	known, found := s.identify(token)
	if !found {
		return nil, enhanced.NewUnknownLockError(lockID)
	}
	resource, err := enhanced.ParseResourceKey(s.name, known.resourceKey)
	if err != nil {
		return nil, enhanced.NewUnknownLockError(lockID)
	}
	if known.ending == nil {
		f, _, err := s.settle(resource)
		switch {
		case err != nil:
			return nil, err
		case f.status == unreadable:
			return nil, enhanced.NewCorruptError(resource, f.name)
		case f.status == held && f.record.Token == token:
			return &f, nil
		}
		// Settling has just ended it.
		known, _ = s.identify(token)
	}
	return nil, known.goneError(lockID, resource)
}

// goneError is the answer to the ID of a lock that is no longer held.
func (i identity) goneError(lockID string, resource enhanced.ResourceIdentifier) error {
	unknown := enhanced.NewUnknownLockError(lockID)
	if i.ending == nil {
		return unknown
	}
	switch i.ending.How {
	case enhanced.EventTimeout, enhanced.EventClaimExpired:
		return enhanced.NewExpiredError(lockID, resource)
	case enhanced.EventReleased, enhanced.EventReserved:
		unknown.Err, unknown.Resource = &releasedError{i.ending.Owner}, resource
	}
	return unknown
}
