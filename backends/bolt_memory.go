package backends

import (
	"errors"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// The memory of requests. A reply can be lost and a request can be delivered
// late or twice. So a grant is remembered with its request while the lock is
// held and for some time after: the same request again gets the same lock, or
// learns that it is gone, and never acquires a second time. A release that is
// repeated in that time is the same release. Refusals had no effect and are
// not remembered, so that asking again can succeed; a copy of a refused request
// that comes late can, too. See [enhanced.Backend].
//
// The memory is in this process, which is the only one that has the file. It
// follows from the locks and the log, and is read from them by the first step on
// a repository.

const (
	// memoryTime is how long an ended lock is remembered, at least.
	memoryTime = 10 * time.Minute
	// forgetPerStep is how much one step forgets. A grant adds one thing to
	// forget, so two keep the memory bounded.
	forgetPerStep = 2
)

// ending says how a lock ended. In the file, the log has it, and an entry of
// its own once the log's record is removed.
type ending struct {
	// How is an event type: released, timeout or transferred.
	How      string `json:"how"`
	Resource string `json:"resource"`
	Owner    string `json:"owner"`
	Request  string `json:"request,omitzero"`
}

// isSound reports whether all of an ending makes sense.
func (e *ending) isSound(repository string) bool {
	_, resourceErr := enhanced.ParseResourceKey(repository, e.Resource)
	_, ownerErr := enhanced.ParseOwner(e.Owner)
	return e.How != "" && resourceErr == nil && ownerErr == nil
}

// identity is what is known of a token: the resource of a held lock, or
// the ending of one that is remembered.
type identity struct {
	resourceKey string
	ending      *ending
}

// heldUnder returns the key of the resource whose lock has a token, "" for none.
func (r *repository) heldUnder(token int64) string { return string(r.get(idKey(token))) }

// identify returns what is known of a token.
func (s *repositoryStep) identify(token int64) (identity, bool) {
	if key := s.heldUnder(token); key != "" {
		return identity{resourceKey: key}, true
	}
	if e, found := s.memory().endings[token]; found {
		return identity{resourceKey: e.Resource, ending: &e}, true
	}
	return identity{}, false
}

// recall answers a request that was granted before; known is false for others.
func (s *repositoryStep) recall(r *enhanced.EnhancedLockRequest) (known bool, answer acquisition, err error) {
	token := s.memory().requests[r.ID]
	if token == 0 {
		return false, acquisition{}, nil
	}
	granted, found := s.identify(token)
	if !found {
		return false, acquisition{}, nil
	}
	if granted.resourceKey != r.Resource.Key() {
		return true, acquisition{}, reusedError(r)
	}
	owner := r.Owner().String()
	if granted.ending == nil {
		f, _, err := s.settle(r.Resource)
		switch {
		case err != nil:
			return true, acquisition{}, err
		case f.status == held && f.record.Token == token && f.record.Owner == owner:
			return true, acquisition{lock: f.lock(), granted: true, known: true}, nil
		case f.status == held && f.record.Token == token:
			return true, acquisition{}, reusedError(r)
		}
		// Settling has just ended it.
		granted, _ = s.identify(token)
	}
	if granted.ending != nil && granted.ending.Owner != owner {
		return true, acquisition{}, reusedError(r)
	}
	return true, acquisition{}, endedRequestError(r)
}

// endedRequestError is the answer to a request whose lock has ended.
func endedRequestError(r *enhanced.EnhancedLockRequest) error {
	return &enhanced.LockError{
		Code:     enhanced.ErrCodeLockExpired,
		Message:  fmt.Sprintf("request %q got a lock on %s before", r.ID, r.Resource),
		Resource: r.Resource,
		Err:      enhanced.ErrRequestEnded,
	}
}

func reusedError(r *enhanced.EnhancedLockRequest) error {
	return enhanced.NewInvalidError("request ID %q was used before by another owner or for another resource; IDs are for one request", r.ID)
}

// remember keeps how a lock ended. The next log record is of that end, and
// carries the request that a restart can't find elsewhere.
func (s *repositoryStep) remember(resource enhanced.ResourceIdentifier, record *lockRecord, how string) error {
	s.memoryToChange().end(record.Token, s.now+memoryTime.Microseconds(), ending{
		How: how, Resource: s.keyOf(resource), Owner: record.Owner, Request: record.Request,
	})
	s.ended = &endedLock{record.Token, record.Request}
	return s.delete(idKey(record.Token))
}

// endedLock is a lock whose end is to be logged.
type endedLock struct {
	token   int64
	request string
}

// requestOfEnded returns the request of the lock that has just ended, for the
// log record of that; nil for a change that ends none.
func (s *repositoryStep) requestOfEnded(before *lockRecord) *string {
	if before == nil || s.ended == nil || s.ended.token != before.Token {
		return nil
	}
	request := s.ended.request
	s.ended = nil
	return &request
}

// forget removes up to limit endings whose time has come.
func (s *repositoryStep) forget(limit int) error {
	m := s.memory()
	var errs []error
	for range limit {
		due, ok := m.forget(s.now)
		if !ok {
			break
		}
		if due.stored {
			errs = append(errs, s.delete(forgetKey(due.at, due.token)))
		}
	}
	return errors.Join(errs...)
}

// keepEnding stores the ending that a log record has, for the time when that
// record is gone.
func (s *repositoryStep) keepEnding(record *logRecord) error {
	token, at, e, ok := record.ending()
	if !ok || at <= s.now {
		return nil
	}
	value, err := encode(e)
	if err != nil {
		return err
	}
	s.memoryToChange().stored(token)
	return s.put(forgetKey(at, token), value)
}

// ending returns the end of a lock that the record is of, and until when that is
// remembered.
func (r *logRecord) ending() (token, until int64, e ending, ok bool) {
	before := r.summary(r.Before)
	if r.Ended == nil || before == nil {
		return 0, 0, ending{}, false
	}
	return before.Token, r.Time + memoryTime.Microseconds(),
		ending{How: r.Type, Resource: r.Resource, Owner: before.Owner, Request: *r.Ended}, true
}
