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

const (
	// memoryTime is how long an ended lock is remembered, at least.
	memoryTime = 10 * time.Minute
	// forgetPerStep is how much one step forgets. A grant adds one thing to
	// forget, so two keep the memory bounded.
	forgetPerStep = 2
)

// ending says how a lock ended, under its token.
type ending struct {
	// How is an event type: released, timeout or transferred.
	How      string `json:"how"`
	Resource string `json:"resource"`
	Owner    string `json:"owner"`
	Request  string `json:"request,omitzero"`
}

// identity is what is stored under a token: the resource of a held lock, or
// the ending of one that is remembered.
type identity struct {
	resourceKey string
	ending      *ending
}

// identify returns what is known of a token.
func (r *repository) identify(token int64) (identity, bool) {
	value := r.get(idKey(token))
	switch {
	case len(value) == 0:
		return identity{}, false
	case value[0] != '{': // a resource key starts with a letter
		return identity{resourceKey: string(value)}, true
	}
	var e ending
	if err := decode(value, &e); err != nil {
		return identity{}, false
	}
	return identity{resourceKey: e.Resource, ending: &e}, true
}

// recall answers a request that was granted before; known is false for others.
func (s *repositoryStep) recall(r *enhanced.EnhancedLockRequest) (known bool, answer acquisition, err error) {
	token := number(s.get(requestKey(r.ID)))
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
		Message:  fmt.Sprintf("request %q got a lock on %s before, which has ended; ask with a new ID", r.ID, r.Resource),
		Resource: r.Resource,
	}
}

func reusedError(r *enhanced.EnhancedLockRequest) error {
	return enhanced.NewInvalidError("request ID %q was used before by another owner or for another resource; IDs are for one request", r.ID)
}

// remember keeps how a lock ended. The lock's own entries are gone by then.
func (s *repositoryStep) remember(resource enhanced.ResourceIdentifier, record *lockRecord, how string) error {
	value, err := encode(ending{How: how, Resource: resource.Key(), Owner: record.Owner, Request: record.Request})
	if err != nil {
		return err
	}
	return errors.Join(
		s.put(idKey(record.Token), value),
		s.put(forgetKey(s.now+memoryTime.Microseconds(), record.Token), present()),
	)
}

// forget removes up to limit endings whose time has come.
func (s *repositoryStep) forget(limit int) error {
	for _, key := range s.keysUntilNow(rangeForget, limit) {
		_, token, ok := splitForgetKey(key)
		if known, found := s.identify(token); ok && found && known.ending != nil {
			if err := s.delete(idKey(token)); err != nil {
				return err
			}
			if request := known.ending.Request; number(s.get(requestKey(request))) == token {
				if err := s.delete(requestKey(request)); err != nil {
					return err
				}
			}
		}
		if err := s.delete(key); err != nil {
			return err
		}
	}
	return nil
}
