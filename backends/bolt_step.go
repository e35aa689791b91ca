package backends

import (
	"errors"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// repositoryStep is a repository in a write transaction. Its errors, unless
// they are decisions, undo the whole step.
type repositoryStep struct {
	*repository
	backend *BoltBackend
	batch   *batch
	// ended is a lock whose end the next log record is of.
	ended *endedLock
	// written is the lock that was written last.
	written struct{ record, payload []byte }
}

// change says who changes something, through what, and why.
type change struct {
	actor, cause, reason, request string
	// waiter is whose request it is about, for a change of a queue.
	waiter string
	// deadlock is what was found, for a change because of that.
	deadlock *enhanced.DeadlockReport
}

func (b *BoltBackend) repositoryStep(batch *batch, name string) *repositoryStep {
	s := &repositoryStep{
		repository: b.repository(batch.tx, name, batch.now),
		backend:    b,
		batch:      batch,
	}
	s.legacy.FillPercent, s.grants = fillPercent, b.grants
	if s.bucket != nil {
		s.bucket.FillPercent = fillPercent
		s.known = s.memory()
	}
	return s
}

// fillPercent is how full bbolt leaves a page that it splits. The log and
// tokens only grow at their end, where the default of one half wastes the other.
const fillPercent = 0.9

// repositoryStepByTag opens the repository of a lock ID, nil if there is none.
func (b *BoltBackend) repositoryStepByTag(batch *batch, tag string) *repositoryStep {
	name, found := repositoryName(batch.tx, tag)
	if !found {
		return nil
	}
	return b.repositoryStep(batch, name)
}

// put writes a key of the repository.
func (s *repositoryStep) put(key, value []byte) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.homeOf(key).Put(key, value); err != nil {
		return err
	}
	s.notePut(key)
	return nil
}

// open makes the repository's bucket if there is none.
func (s *repositoryStep) open() error {
	s.batch.dirty = true
	if s.bucket != nil {
		return nil
	}
	bucket, err := s.tx.CreateBucketIfNotExists([]byte(s.tag))
	if err != nil {
		return fmt.Errorf("repository %q: %w", s.name, err)
	}
	s.bucket = bucket
	s.bucket.FillPercent = fillPercent
	s.known = s.memory()
	return bucket.Put(nameKey(), []byte(s.name))
}

func (s *repositoryStep) delete(key []byte) error {
	s.batch.dirty = true
	if err := s.homeOf(key).Delete(key); err != nil {
		return err
	}
	s.noteDelete(key)
	return nil
}

// deleteLegacy removes stock's copy of a lock.
func (s *repositoryStep) deleteLegacy(key string) error {
	s.batch.dirty = true
	return s.legacy.Delete([]byte(key))
}

// settle does first what is due on a resource: it ends a lease that has run
// out, follows what stock Atlantis has done in its own bucket, takes over what
// stock has locked, and gives what is free to the next waiter. The finding that
// it returns is free, held, heldElsewhere, reserved or unreadable. The second result is the
// record that ended, if one did.
func (s *repositoryStep) settle(resource enhanced.ResourceIdentifier) (finding, *lockRecord, error) {
	var ended *lockRecord
	for {
		f := s.inspect(resource)
		var err error
		switch f.status {
		case expired:
			ended = f.record
			err = s.expire(&f)
		case releasedByStock:
			ended = f.record
			err = s.end(&f, enhanced.EventReleased, change{actor: enhanced.SystemAtlantis, cause: enhanced.CauseLegacy})
		case heldByStock:
			err = s.adopt(&f)
		case expiredElsewhere:
			_, _, err = s.backend.repositoryStep(s.batch, f.resource.Namespace).settle(f.resource)
		case heldElsewhere:
			if f.record != nil {
				return f, ended, s.noteRivals(&f)
			}
			// Only stock has recorded it there so far.
			_, _, err = s.backend.repositoryStep(s.batch, f.resource.Namespace).settle(f.resource)
		case held:
			return f, ended, s.noteRivals(&f)
		case reservationOver:
			err = s.endReservation(resource, change{actor: enhanced.SystemStore, cause: enhanced.CauseExpired})
		case reserved:
			if f.isLapse() || s.backend.config.Load().EnablePriorityQueue {
				return f, ended, nil
			}
			err = s.endReservation(resource, change{actor: enhanced.SystemStore, cause: enhanced.CauseExpired})
		case free:
			var given bool
			if given, err = s.handOver(resource); err == nil && !given {
				return f, ended, nil
			}
		default:
			return f, ended, nil
		}
		// Each turn removes what it found, so the loop ends.
		if err != nil {
			return finding{}, nil, err
		}
		s.reopen()
	}
}

// reopen sees a bucket that another step of this transaction has made.
func (s *repositoryStep) reopen() {
	if s.bucket == nil {
		s.repository = s.sibling(s.name)
		s.grants = s.backend.grants
	}
	if s.bucket != nil {
		s.known = s.memory()
	}
}

// grant writes a new lock with a new token and logs it.
func (s *repositoryStep) grant(resource enhanced.ResourceIdentifier, record *lockRecord, original models.ProjectLock, event string, before *lockRecord, c change) (*enhanced.EnhancedLock, error) {
	record.Token = s.batch.nextToken()
	if err := s.putPayload(resource, record, original); err != nil {
		return nil, err
	}
	if _, err := s.dropReservation(resource); err != nil {
		return nil, err
	}
	key := s.keyOf(resource)
	err := errors.Join(
		s.put(idKey(record.Token), []byte(key)),
		s.putRecord(resource, record),
		s.log(event, resource, before, record, c),
	)
	if record.Request != "" {
		s.memoryToChange().requests[record.Request] = record.Token
	}
	if err != nil {
		return nil, err
	}
	original = enhanced.SanitizeProjectLock(original)
	s.grants.note(resource, &granted{s.written.record, s.written.payload, *record, original})
	lock := newLock(s.tag, resource, record, &original)
	return lock, s.dequeueOwn(record.Owner, resource, lock)
}

// putPayload puts stock's form of a lock where it is kept: under stock's key, or
// into the record.
func (s *repositoryStep) putPayload(resource enhanced.ResourceIdentifier, record *lockRecord, original models.ProjectLock) error {
	payload, err := encodeProjectLock(original)
	if err != nil {
		return err
	}
	s.written.payload = payload
	hadMirror := record.Mirror != ""
	record.Mirror, record.Lock = "", nil
	switch {
	case s.preserve && resource.Type == enhanced.ResourceTypeProject:
		record.Mirror = checksum(payload)
		s.batch.dirty = true
		if err := s.legacy.Put([]byte(resource.LegacyKey()), payload); err != nil {
			return fmt.Errorf("stock's copy of %s: %w", resource, err)
		}
		return nil
	case hadMirror:
		err = s.deleteLegacy(resource.LegacyKey())
	}
	record.Lock = payload
	return err
}

// putRecord writes a record with its deadline, and notes who holds it.
func (s *repositoryStep) putRecord(resource enhanced.ResourceIdentifier, record *lockRecord) error {
	data, err := encodeLockRecord(s.name, record)
	if err != nil {
		return err
	}
	s.written.record = data
	owner, err := enhanced.ParseOwner(record.Owner)
	if err != nil {
		return err
	}
	key := s.keyOf(resource)
	err = s.put(lockKey(key), data)
	s.memoryToChange().holdings.add(owner, key)
	if record.Expires != 0 {
		err = errors.Join(err, s.put(deadlineKey(record.Expires, key), present()))
	}
	return err
}

// remove deletes a record with all that points to it, but for stock's copy, and
// remembers how it ended.
func (s *repositoryStep) remove(resource enhanced.ResourceIdentifier, record *lockRecord, how string) error {
	owner, err := enhanced.ParseOwner(record.Owner)
	if err != nil {
		return err
	}
	key := s.keyOf(resource)
	delete(s.grants, resource)
	err = errors.Join(
		s.delete(lockKey(key)),
		s.remember(resource, record, how),
	)
	s.memoryToChange().holdings.remove(owner, key)
	if record.Expires != 0 {
		err = errors.Join(err, s.delete(deadlineKey(record.Expires, key)))
	}
	return err
}

// end removes a held, expired or overtaken lock and logs why.
func (s *repositoryStep) end(f *finding, event string, c change) error {
	err := s.remove(f.resource, f.record, event)
	if f.record.Mirror != "" && f.status != releasedByStock {
		err = errors.Join(err, s.deleteLegacy(f.legacyKey))
	}
	err = errors.Join(err, s.log(event, f.resource, f.record, nil, c))
	ended := s.now
	if isExpiry(event) {
		ended = f.record.Expires
	}
	heldFor := time.Duration(ended-f.record.Acquired) * time.Microsecond
	s.batch.after = append(s.batch.after, func() {
		if isExpiry(event) {
			s.backend.recorder.Expired(heldFor)
		} else {
			s.backend.recorder.Released(heldFor)
		}
	})
	return err
}

// adopt takes over a lock that stock Atlantis has taken: it gets an ID and a
// token, its credentials are removed, and a key from before v0.40 is replaced
// by the present one.
func (s *repositoryStep) adopt(f *finding) error {
	owner := enhanced.ProjectLockOwner(*f.original).String()
	if err := s.deleteLegacy(f.legacyKey); err != nil {
		return err
	}
	record := &lockRecord{
		Owner:    owner,
		Priority: enhanced.PriorityNormal,
		// Stock's time is the wall clock of the process that took the lock.
		Acquired: min(max(f.original.Time.UnixMicro(), 1), s.now),
	}
	// What stock has put in its bucket stays there, whatever the configuration
	// says of new locks: a process that runs stock relies on it.
	s.preserve = true
	_, err := s.grant(f.resource, record, *f.original, enhanced.EventAdopted, nil,
		change{actor: owner, cause: enhanced.CauseLegacy})
	s.preserve = s.backend.config.Load().PreserveLegacyFormat
	return err
}

// log appends the one record of a change to the repository's log.
func (s *repositoryStep) log(event string, resource enhanced.ResourceIdentifier, before, after *lockRecord, c change) error {
	record := logRecord{
		Time: s.now, Type: event, Resource: s.keyOf(resource),
		Request: c.request, Actor: c.actor, Cause: c.cause, Reason: c.reason, Waiter: c.waiter,
		Deadlock: newDeadlockRecord(s.name, c.deadlock),
		Ended:    s.requestOfEnded(before),
	}
	if before != nil {
		record.Token, record.Before = before.Token, before.logSummary()
	}
	if after != nil {
		record.Token, record.After = after.Token, after.logSummary()
	}
	data, err := encodeLogRecord(s.name, record)
	if err != nil {
		return err
	}
	if err := s.open(); err != nil {
		return err
	}
	s.batch.touched[s.tag] = struct{}{}
	sequence, err := s.bucket.NextSequence()
	if err != nil {
		return err
	}
	moved, err := s.appendRecord(sequence, data)
	return errors.Join(err, s.trimAsItGrows(moved), s.forget(forgetPerStep))
}
