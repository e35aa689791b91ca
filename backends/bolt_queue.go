package backends

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// The queue of a resource is a range of entries in the order in which they are
// served. A detached waiter is one that no call stands for. An attached waiter lives as long as the call that waits for it, and a
// file has one process: one whose call is not in this process has died, and is
// passed over.

// waiterRecord is what is stored of a waiter: all that its lock will need.
type waiterRecord struct {
	Request  string            `json:"q"`
	Owner    string            `json:"o"`
	Priority enhanced.Priority `json:"p,omitzero"`
	Enqueued int64             `json:"t"`
	// Detached says that no call stands for it.
	Detached bool `json:"d,omitzero"`
	// Set says of which set the request is, nil for a single one.
	Set *setMark `json:"s,omitzero"`
	// Lease is in microseconds, 0 for a lock that is held until released.
	Lease    int64             `json:"x,omitzero"`
	Metadata map[string]string `json:"m,omitempty"`
	// Lock is stock's form of the lock.
	Lock jsontext.Value `json:"l"`
}

// waiter is a record with where it stands.
type waiter struct {
	*waiterRecord
	resource enhanced.ResourceIdentifier
	rank     queue.Rank
}

func decodeWaiterRecord(data []byte) (*waiterRecord, error) {
	var w waiterRecord
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	return &w, w.check()
}

// check reports what is no waiter.
func (w *waiterRecord) check() error {
	if _, err := enhanced.ParseOwner(w.Owner); err != nil {
		return err
	}
	if _, err := decodeProjectLock(w.Lock); err != nil {
		return err
	}
	if w.Request == "" || w.Enqueued <= 0 || w.Lease < 0 {
		return fmt.Errorf("waiter has request %q, enqueued %d, lease %d", w.Request, w.Enqueued, w.Lease)
	}
	return nil
}

// rankSize is the length of a rank in a key.
const rankSize = 16

// appendRank writes a rank so that the order of bytes is that of ranks.
func appendRank(key []byte, rank queue.Rank) []byte {
	key = binary.BigEndian.AppendUint64(key, uint64(rank.Score)^1<<63) //nolint:gosec // the sign bit is turned
	return binary.BigEndian.AppendUint64(key, rank.Sequence)
}

func parseRank(text []byte) queue.Rank {
	return queue.Rank{
		Score:    int64(binary.BigEndian.Uint64(text) ^ 1<<63), //nolint:gosec // see appendRank
		Sequence: binary.BigEndian.Uint64(text[8:]),
	}
}

// queuePrefix starts the keys of a resource's queue. The zero byte is in no
// resource's key.
func queuePrefix(resourceKey string) []byte {
	return append([]byte{rangeQueue}, resourceKey+"\x00"...)
}

func queueKey(resourceKey string, rank queue.Rank) []byte {
	return appendRank(queuePrefix(resourceKey), rank)
}

func waiterKey(request string) []byte { return append([]byte{rangeWaiter}, request...) }

// waitsPrefix starts the keys of what an owner waits for.
func waitsPrefix(owner enhanced.Owner, resourceKey string) []byte {
	key := append(ownerKey(owner, resourceKey), 0)
	key[0] = rangeWaits
	return key
}

func (w *waiter) queueKey() []byte { return queueKey(w.resource.Key(), w.rank) }

// eachPlace calls visit for the entries of a resource's queue in their order,
// until it answers false.
func (r *repository) eachPlace(resource enhanced.ResourceIdentifier, visit func(rank queue.Rank, record []byte) bool) {
	if r.bucket == nil || r.isVacant(rangeQueue) {
		return
	}
	prefix := queuePrefix(resource.Key())
	cursor := r.bucket.Cursor()
	for key, value := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		if len(key) == len(prefix)+rankSize && !visit(parseRank(key[len(prefix):]), value) {
			return
		}
	}
}

// eachWaiter is eachPlace for waiters that can be read; others are passed over.
func (r *repository) eachWaiter(resource enhanced.ResourceIdentifier, visit func(w *waiter) bool) {
	r.eachPlace(resource, func(rank queue.Rank, data []byte) bool {
		record, err := decodeWaiterRecord(data)
		return err != nil || visit(&waiter{record, resource, rank})
	})
}

// waiterOf returns the waiter of a request, nil if there is none.
func (r *repository) waiterOf(request string) *waiter {
	if r.isVacant(rangeWaiter) {
		return nil
	}
	place := bytes.Clone(r.get(waiterKey(request)))
	if len(place) <= rankSize+1 {
		return nil
	}
	at := len(place) - rankSize
	record, err := decodeWaiterRecord(r.get(append([]byte{rangeQueue}, place...)))
	resource, resourceErr := enhanced.ParseResourceKey(r.name, string(place[:at-1]))
	if err != nil || resourceErr != nil {
		return nil
	}
	return &waiter{record, resource, parseRank(place[at:])}
}

// enqueue has a request wait for what was found to be held.
func (s *repositoryStep) enqueue(r *enhanced.EnhancedLockRequest, f *finding, detached bool) (acquisition, error) {
	owner := r.Owner()
	if s.waiterOf(r.ID) != nil { // it was sent again
		return acquisition{lock: f.lock(), waits: true}, nil
	}
	config := s.backend.config.Load()
	switch length, err := s.queueLength(r.Resource, config.MaxQueueSize); {
	case err != nil:
		return acquisition{}, err
	case length >= config.MaxQueueSize:
		return acquisition{}, queueFullError(r, f.lock(), length, config.MaxQueueSize)
	}
	order := queue.Order{AgingInterval: config.PriorityAgingInterval}
	if err := s.reorder(order); err != nil {
		return acquisition{}, err
	}
	payload, err := encodeProjectLock(r.ProjectLock())
	if err != nil {
		return acquisition{}, err
	}
	record := &waiterRecord{
		Request: r.ID, Owner: owner.String(), Priority: r.Priority, Enqueued: s.now, Metadata: r.Metadata, Lock: payload,
		Detached: detached,
	}
	if r.Timeout != enhanced.NoTimeout {
		record.Lease = r.Timeout.Microseconds()
	}
	// The log counts up, so its sequence is the order in which waiters came.
	w := &waiter{record, r.Resource, order.Rank(int(r.Priority), time.UnixMicro(s.now), s.lastSequence()+1)}
	moves, err := s.preventDeadlock(w, f)
	if err != nil {
		return acquisition{}, err
	}
	if err := s.log(enhanced.EventQueued, r.Resource, nil, nil,
		change{actor: owner.String(), cause: enhanced.CauseRequest, request: r.ID, waiter: owner.String()}); err != nil {
		return acquisition{}, err
	}
	return acquisition{lock: f.lock(), waits: true}, errors.Join(s.putWaiter(w), s.moveTogether(moves))
}

func (s *repositoryStep) putWaiter(w *waiter) error {
	data, err := encode(w.waiterRecord)
	if err != nil {
		return err
	}
	owner, err := enhanced.ParseOwner(w.Owner)
	if err != nil {
		return err
	}
	if w.Detached {
		// At once: the next step may free what it waits for.
		s.backend.turns.countDetached(w.resource, 1)
	}
	key := w.queueKey()
	return errors.Join(
		s.put(key, data),
		s.put(waiterKey(w.Request), key[1:]),
		s.put(append(waitsPrefix(owner, w.resource.Key()), w.Request...), appendRank(nil, w.rank)),
	)
}

// removeWaiter deletes a waiter with all that leads to it.
func (s *repositoryStep) removeWaiter(w *waiter) error {
	owner, err := enhanced.ParseOwner(w.Owner)
	if w.Detached {
		s.batch.after = append(s.batch.after, func() { s.backend.turns.countDetached(w.resource, -1) })
	}
	return errors.Join(
		err,
		s.delete(w.queueKey()),
		s.delete(waiterKey(w.Request)),
		s.delete(append(waitsPrefix(owner, w.resource.Key()), w.Request...)),
	)
}

// dequeue takes a waiter out without a lock, and tells its call why.
func (s *repositoryStep) dequeue(w *waiter, event string, c change, answer error) error {
	if w.Set != nil {
		return s.dequeueSet(w, event, c, answer)
	}
	c.request, c.waiter = w.Request, w.Owner
	name := requestName{s.name, w.Request}
	s.batch.after = append(s.batch.after, func() { s.backend.turns.answer(name, nil, answer) })
	return errors.Join(s.removeWaiter(w), s.log(event, w.resource, nil, nil, c))
}

// queueLength counts the waiters of a resource. Those that have died are taken
// out first when there are limit of them.
func (s *repositoryStep) queueLength(resource enhanced.ResourceIdentifier, limit int) (int, error) {
	length := 0
	s.eachPlace(resource, func(queue.Rank, []byte) bool {
		length++
		return length < limit
	})
	if length < limit {
		return length, nil
	}
	var dead []*waiter
	s.eachWaiter(resource, func(w *waiter) bool {
		if !s.backend.isAlive(s.name, w.waiterRecord, s.now) {
			dead = append(dead, w)
		}
		return true
	})
	for _, w := range dead {
		if err := s.dequeueDead(w); err != nil {
			return 0, err
		}
	}
	return length - len(dead), nil
}

// dequeueDead takes out a waiter whose call has ended without saying so, or a
// detached one whose time is over. Nobody is told: a call with the same request
// may have come meanwhile, and enters the queue anew.
func (s *repositoryStep) dequeueDead(w *waiter) error {
	if w.Set != nil {
		return s.dequeueSet(w, enhanced.EventCancelled, change{actor: enhanced.SystemStore, cause: enhanced.CauseExpired}, nil)
	}
	event := enhanced.EventCancelled
	if w.isLate(s.backend.config.Load(), s.now) {
		event = enhanced.EventQueueTimeout
	}
	return errors.Join(s.removeWaiter(w), s.log(event, w.resource, nil, nil,
		change{actor: enhanced.SystemStore, cause: enhanced.CauseExpired, request: w.Request, waiter: w.Owner}))
}

// reorder ranks all waiters of the repository anew where they were ranked by
// another order.
func (s *repositoryStep) reorder(order queue.Order) error {
	if number(s.get(agingKey())) == order.AgingInterval.Microseconds() {
		return nil
	}
	var all []*waiter
	s.allWaiters(func(w *waiter) { all = append(all, w) })
	for _, w := range all {
		if err := s.removeWaiter(w); err != nil {
			return err
		}
	}
	for _, w := range all {
		if !isMoved(w.rank) {
			w.rank = order.Rank(int(w.Priority), time.UnixMicro(w.Enqueued), w.rank.Sequence)
		}
		if err := s.putWaiter(w); err != nil {
			return err
		}
	}
	return s.put(agingKey(), appendNumber(nil, order.AgingInterval.Microseconds()))
}

// allWaiters calls visit for all waiters of the repository, resource by resource.
func (r *repository) allWaiters(visit func(w *waiter)) {
	r.allPlaces(func(resource enhanced.ResourceIdentifier, rank queue.Rank, data []byte) {
		if record, err := decodeWaiterRecord(data); err == nil {
			visit(&waiter{record, resource, rank})
		}
	})
}

// allPlaces calls visit for the entries of all queues, resource by resource.
func (r *repository) allPlaces(visit func(resource enhanced.ResourceIdentifier, rank queue.Rank, record []byte)) {
	if r.bucket == nil {
		return
	}
	var last enhanced.ResourceIdentifier
	var lastKey []byte
	cursor := r.bucket.Cursor()
	for key, value := cursor.Seek([]byte{rangeQueue}); len(key) > 0 && key[0] == rangeQueue; key, value = cursor.Next() {
		at := len(key) - rankSize
		if at < 2 {
			continue
		}
		if !bytes.Equal(key[:at], lastKey) {
			resource, err := enhanced.ParseResourceKey(r.name, string(key[1:at-1]))
			if err != nil {
				continue
			}
			last, lastKey = resource, key[:at]
		}
		visit(last, parseRank(key[at:]), value)
	}
}

// placeOf says where a waiter stands.
func (s *repositoryStep) placeOf(w *waiter) place {
	var at place
	s.eachPlace(w.resource, func(rank queue.Rank, _ []byte) bool {
		if at.of++; rank.Compare(w.rank) <= 0 {
			at.number++
		}
		return true
	})
	if f := s.inspect(w.resource); f.status == held || f.status == reserved {
		at.holder = f.lock()
	}
	return at
}
