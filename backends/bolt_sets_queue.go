package backends

import (
	"bytes"
	"cmp"
	"errors"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// A set that waits has a waiter in the queue of each of its resources, all with one
// mark. It is granted when all of them can be, in the step that frees the last
// one; until then waiters that want one resource pass it. Once it has waited for
// SetReserveAfter, what is free of it is kept for it: nobody else is granted it, but
// an older set. See docs/adr/0020-sets-wait-whole.md.

// setMark says of which set a waiter is.
type setMark struct {
	// ID is that of the request for the first resource.
	ID string `json:"i"`
	// Size is how many waiters the set has.
	Size int `json:"n"`
}

// call names the call that waits for a request.
func (w *waiterRecord) call(repository string) requestName {
	if w.Set != nil {
		return requestName{repository, w.Set.ID}
	}
	return requestName{repository, w.Request}
}

// setMembers counts the requests of sets that calls of this process stand for, by
// resource. All sets that are alive are in it: a file has one process.
type setMembers struct {
	mu         sync.Mutex // protects byResource
	byResource map[enhanced.ResourceIdentifier]map[string]int
}

func (m *setMembers) count(set []*enhanced.EnhancedLockRequest, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byResource == nil {
		m.byResource = make(map[enhanced.ResourceIdentifier]map[string]int)
	}
	for _, r := range set {
		requests := m.byResource[r.Resource]
		if requests == nil {
			requests = make(map[string]int)
			m.byResource[r.Resource] = requests
		}
		if requests[r.ID] += n; requests[r.ID] > 0 {
			continue
		}
		if delete(requests, r.ID); len(requests) == 0 {
			delete(m.byResource, r.Resource)
		}
	}
}

// of returns the requests of sets for a resource.
func (m *setMembers) of(resource enhanced.ResourceIdentifier) (requests []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for request := range m.byResource[resource] {
		requests = append(requests, request)
	}
	return requests
}

// enqueueSet has a set wait for what was found of it.
func (s *repositoryStep) enqueueSet(set []*enhanced.EnhancedLockRequest, found []finding) (acquisition, error) {
	limit := s.backend.config.Load().MaxQueueSize
	var blocker *finding
	for i, r := range set {
		switch length, err := s.queueLength(r.Resource, limit); {
		case err != nil:
			return acquisition{}, err
		case length >= limit:
			return acquisition{}, setQueueFullError(r.Resource, length, limit, len(set))
		}
		if f := &found[i]; blocker == nil && f.status != free && !f.isTakeable(r.Owner()) {
			blocker = f
		}
	}
	mark := setMark{set[0].ID, len(set)}
	for i, r := range set {
		if _, err := s.enqueue(r, blocker, false); err != nil {
			if i > 0 && isDecision(err) {
				err = errors.Join(err, s.dequeue(s.waiterOf(set[0].ID), enhanced.EventCancelled,
					change{actor: enhanced.SystemStore, cause: enhanced.CauseRequest}, err))
			}
			return acquisition{}, err
		}
		w := s.waiterOf(r.ID)
		w.Set = &mark
		if err := s.putWaiter(w); err != nil {
			return acquisition{}, err
		}
	}
	return acquisition{lock: blocker.lock(), waits: true}, nil
}

// membersOf returns the waiters of a set, in the order of their resources' keys.
func (r *repository) membersOf(w *waiter) (members []*waiter) {
	owner, err := enhanced.ParseOwner(w.Owner)
	if err != nil || r.bucket == nil {
		return nil
	}
	prefix := ownerKey(owner, "")
	prefix[0] = rangeWaits
	cursor := r.bucket.Cursor()
	for key, _ := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = cursor.Next() {
		_, request, _ := bytes.Cut(key[len(prefix):], []byte{0})
		if member := r.waiterOf(string(request)); member != nil && member.Set != nil && member.Set.ID == w.Set.ID {
			members = append(members, member)
		}
	}
	return members
}

// dequeueSet takes a set out without a lock, and tells its call why, if there is
// an answer.
func (s *repositoryStep) dequeueSet(w *waiter, event string, c change, answer error) error {
	keeps := s.backend.isOld(w, s.now)
	for _, member := range s.membersOf(w) {
		c.request, c.waiter = member.Request, member.Owner
		if err := errors.Join(s.removeWaiter(member), s.log(event, member.resource, nil, nil, c)); err != nil {
			return err
		}
		if keeps {
			s.batch.unserved = append(s.batch.unserved, member.resource)
		}
	}
	if answer != nil {
		name := w.call(s.name)
		s.batch.after = append(s.batch.after, func() { s.backend.turns.answer(name, nil, answer) })
	}
	return nil
}

// dequeueDamaged takes out what is left of a set whose other waiters are lost.
func (s *repositoryStep) dequeueDamaged(w *waiter) error {
	return s.dequeueSet(w, enhanced.EventCancelled, change{actor: enhanced.SystemStore, cause: enhanced.CauseRepair}, notWaitingError(w.resource))
}

// isOld reports whether what is free of a waiter's set is kept for it.
func (b *BoltBackend) isOld(w *waiter, now int64) bool {
	return now-w.Enqueued >= b.config.Load().SetReserveAfter.Microseconds()
}

// isOlder orders sets by age. All waiters of a set came at one time.
func (w *waiter) isOlder(other *waiter) bool {
	return cmp.Or(cmp.Compare(w.Enqueued, other.Enqueued), cmp.Compare(w.Set.ID, other.Set.ID)) < 0
}

// keeperOf returns the waiter of the set that a resource is kept for when it is
// free, nil for none: the oldest one that has waited for SetReserveAfter.
func (b *BoltBackend) keeperOf(r *repository, resource enhanced.ResourceIdentifier) (keeper *waiter) {
	for _, request := range b.sets.of(resource) {
		w := r.waiterOf(request)
		if w == nil || w.Set == nil || w.resource != resource || !b.isOld(w, r.now) || !b.isAlive(r.name, w.waiterRecord, r.now) {
			continue
		}
		if keeper == nil || w.isOlder(keeper) {
			keeper = w
		}
	}
	return keeper
}

// keptForSet is what was found of a free resource, with the set that it is kept
// for.
func (b *BoltBackend) keptForSet(r *repository, f finding) finding {
	if w := b.keeperOf(r, f.resource); w != nil {
		if kept, err := w.keeps(r.tag); err == nil {
			return kept
		}
	}
	return f
}

// keeps is what is found of a free resource that is kept for a waiter's set.
func (w *waiter) keeps(tag string) (finding, error) {
	original, err := decodeProjectLock(w.Lock)
	return finding{
		status: reserved, tag: tag, resource: w.resource, original: original,
		record: &lockRecord{Owner: w.Owner, Priority: w.Priority, Acquired: w.Enqueued, Metadata: w.Metadata},
	}, err
}

// isSetReady reports whether a set can be granted: each of its resources is free,
// or reserved for its owner, and is kept for no older set. What is due on one of
// them is done at the end of the step, and looks at the set again.
func (s *repositoryStep) isSetReady(w *waiter) (bool, error) {
	members := s.membersOf(w)
	if len(members) != w.Set.Size {
		return false, s.dequeueDamaged(w)
	}
	owner, err := enhanced.ParseOwner(w.Owner)
	if err != nil {
		return false, err
	}
	for _, member := range members {
		f := s.inspect(member.resource)
		switch f.status {
		case free:
			if keeper := s.backend.keeperOf(s.repository, member.resource); keeper != nil && keeper.Set.ID != w.Set.ID {
				return false, nil
			}
		case reserved:
			if !f.isTakeable(owner) {
				return false, nil
			}
		case held, heldElsewhere, unreadable:
			return false, nil
		default:
			s.batch.unserved = append(s.batch.unserved, member.resource)
			return false, nil
		}
	}
	return true, nil
}

// grantSet gives a set its locks, and tells its call after the commit.
func (s *repositoryStep) grantSet(w *waiter) ([]*enhanced.EnhancedLock, error) {
	members := s.membersOf(w)
	for _, member := range members {
		if err := s.removeWaiter(member); err != nil {
			return nil, err
		}
	}
	locks := make([]*enhanced.EnhancedLock, len(members))
	for i, member := range members {
		original, err := decodeProjectLock(member.Lock)
		if err != nil {
			return nil, err
		}
		if locks[i], err = s.grantWaiter(member, original); err != nil {
			return nil, err
		}
	}
	name := w.call(s.name)
	s.batch.after = append(s.batch.after, func() { s.backend.turns.answerSet(name, locks[0], locks, nil) })
	return locks, nil
}

// serveAll settles the resources that a step has left for its end.
func (b *BoltBackend) serveAll(batch *batch) error {
	for len(batch.unserved) > 0 {
		resource := batch.unserved[0]
		batch.unserved = batch.unserved[1:]
		if _, _, err := b.repositoryStep(batch, resource.Namespace).settle(resource); err != nil {
			return err
		}
	}
	return nil
}
