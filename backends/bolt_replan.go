package backends

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// A reservation is a lock that its pull request has given back to plan again,
// while others wait for it. It is no lock any more, and nobody but that pull
// request can have the resource. It ends when the run does, some time after the
// run's last request, or after ReplanWindow. A lapse is one of another kind, see
// bolt_lapse.go.

// lastTryTime is how long after its last request a run that has reservations
// is taken to want no more locks.
const lastTryTime = 30 * time.Second

// reservation is what is stored of one.
type reservation struct {
	Since int64 `json:"t"`
	// Until is when it ends if nothing else ends it.
	Until int64 `json:"x"`
	// Lock is the lock that was given back, without lease, or that of a lapse, with
	// when its lease ended.
	Lock lockRecord `json:"r"`
}

func decodeReservation(data []byte) (*reservation, error) {
	var v reservation
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	owner, err := enhanced.ParseOwner(v.Lock.Owner)
	if err != nil {
		return nil, err
	}
	if !v.isLapse() && owner.Kind != enhanced.OwnerPull || v.Since < max(v.Lock.Expires, 1) || v.Until < v.Since || v.Lock.Token <= 0 {
		return nil, fmt.Errorf("reservation of %s since %d, of token %d", v.Lock.Owner, v.Since, v.Lock.Token)
	}
	_, err = decodeProjectLock(v.Lock.Lock)
	return &v, err
}

func reservedKey(resourceKey string) []byte { return append([]byte{rangeReserved}, resourceKey...) }

// reservesKey is that of what an owner has reserved, in the form of [ownerKey].
func reservesKey(owner enhanced.Owner, resourceKey string) []byte {
	key := ownerKey(owner, resourceKey)
	key[0] = rangeReserves
	return key
}

func lastTryKey(owner string) []byte { return append([]byte{rangeLastTry}, owner...) }

// reservationOf returns the reservation of a resource, nil for none and for one
// that can't be read: it protects a run, and nobody's lock.
func (r *repository) reservationOf(resourceKey string) *reservation {
	if r.isVacant(rangeReserved) {
		return nil
	}
	data := r.get(reservedKey(resourceKey))
	if data == nil {
		return nil
	}
	v, err := decodeReservation(data)
	if err != nil {
		return nil
	}
	return v
}

// reservationEnd returns when a reservation ends.
func (r *repository) reservationEnd(v *reservation) int64 {
	end := v.Until
	if v.isLapse() {
		return end
	}
	if last := number(r.get(lastTryKey(v.Lock.Owner))); last > v.Since {
		end = min(end, last+lastTryTime.Microseconds())
	}
	return end
}

// inspectReservation finds out whether a resource, on which nothing is held, is
// kept for somebody.
func (r *repository) inspectReservation(resource enhanced.ResourceIdentifier) finding {
	if r.isVacant(rangeReserved) {
		return finding{status: free, resource: resource}
	}
	v := r.reservationOf(resource.Key())
	if v == nil {
		return finding{status: free, resource: resource}
	}
	f := finding{status: reserved, tag: r.tag, resource: resource, record: &v.Lock}
	if r.reservationEnd(v) <= r.now {
		f.status = reservationOver
	}
	if v.isLapse() {
		v.Lock.Expires = v.Until // what is shown
	}
	f.original, _ = decodeProjectLock(v.Lock.Lock) //nolint:errcheck // it was read before
	return f
}

// reserve gives a lock back that its pull request may want again.
func (s *repositoryStep) reserve(f *finding, c change) error {
	v := reservation{Since: s.now, Until: s.now + s.backend.config.Load().ReplanWindow.Microseconds(), Lock: *f.record}
	v.Lock.Expires = 0
	c.request = f.record.Request
	return errors.Join(
		s.end(f, enhanced.EventReserved, c),
		s.putReservation(f, &v),
		s.put(reservesKey(f.owner(), f.resource.Key()), present()),
	)
}

// putReservation writes the reservation that follows the lock that was found.
func (s *repositoryStep) putReservation(f *finding, v *reservation) error {
	payload, err := encodeProjectLock(*f.original)
	if err != nil {
		return err
	}
	v.Lock.Mirror, v.Lock.Lock, v.Lock.Pending, v.Lock.Disputed = "", payload, false, false
	data, err := encode(v)
	return errors.Join(err, s.put(reservedKey(f.resource.Key()), data))
}

// isWanted reports whether others wait for a resource that is held.
func (s *repositoryStep) isWanted(resource enhanced.ResourceIdentifier) (wanted bool) {
	s.eachWaiter(resource, func(w *waiter) bool {
		wanted = s.backend.isAlive(s.name, w.waiterRecord, s.now)
		return !wanted
	})
	return wanted
}

// keeps reports whether a release only reserves what it gives back. An unclaimed
// lock is kept, too: its owner is about to claim it.
func (s *repositoryStep) keeps(request enhanced.ReleaseRequest, f *finding) bool {
	return request.Reserve && s.backend.config.Load().EnablePriorityQueue && f.status == held &&
		f.owner().Kind == enhanced.OwnerPull && (f.record.Pending || s.isWanted(f.resource))
}

// dropReservation deletes the reservation of a resource, and returns it.
func (s *repositoryStep) dropReservation(resource enhanced.ResourceIdentifier) (*reservation, error) {
	if s.isVacant(rangeReserved) {
		return nil, nil
	}
	key := s.keyOf(resource)
	if s.get(reservedKey(key)) == nil {
		return nil, nil
	}
	v := s.reservationOf(key)
	if v == nil {
		return nil, s.delete(reservedKey(key))
	}
	owner, err := enhanced.ParseOwner(v.Lock.Owner)
	if err != nil {
		return nil, err
	}
	err = errors.Join(s.delete(reservedKey(key)), s.delete(reservesKey(owner, key)))
	if len(s.reservedBy(reservesKey(owner, ""), 1)) == 0 && s.get(lastTryKey(v.Lock.Owner)) != nil {
		err = errors.Join(err, s.delete(lastTryKey(v.Lock.Owner)))
	}
	return v, err
}

// endReservation ends a reservation whose owner has not taken the lock back.
func (s *repositoryStep) endReservation(resource enhanced.ResourceIdentifier, c change) error {
	v, err := s.dropReservation(resource)
	if v == nil || err != nil {
		return err
	}
	c.request, c.waiter = v.Lock.Request, v.Lock.Owner
	return s.log(enhanced.EventReservationEnded, resource, nil, nil, c)
}

// reservedBy returns up to limit resources whose entries of [reservesKey] start
// with a prefix.
func (r *repository) reservedBy(prefix []byte, limit int) (found []enhanced.ResourceIdentifier) {
	if r.bucket == nil || r.isVacant(rangeReserves) {
		return nil
	}
	cursor := r.bucket.Cursor()
	for key, _ := cursor.Seek(prefix); bytes.HasPrefix(key, prefix) && len(found) < limit; key, _ = cursor.Next() {
		_, resourceKey, _ := bytes.Cut(key, []byte{0})
		if resource, err := enhanced.ParseResourceKey(r.name, string(resourceKey)); err == nil {
			found = append(found, resource)
		}
	}
	return found
}

// reservedByPull returns the prefix of what pull requests with a number have
// reserved, on whatever host.
func reservedByPull(number int) []byte {
	prefix := pullPrefix(number)
	prefix[0] = rangeReserves
	return prefix
}

// endReservations ends up to maxStep reservations with hand-over, and reports
// whether there may be more.
func (s *repositoryStep) endReservations(prefix []byte, c change) (more bool, err error) {
	given, err := s.giveUp(prefix, c)
	if err != nil {
		return false, err
	}
	return len(given) == maxStep, s.succeedAll(nil, given, c)
}

// giveUp ends up to maxStep reservations, and returns what is to be handed over.
func (s *repositoryStep) giveUp(prefix []byte, c change) ([]enhanced.ResourceIdentifier, error) {
	given := s.reservedBy(prefix, maxStep)
	for _, resource := range given {
		if err := s.endReservation(resource, c); err != nil {
			return nil, err
		}
	}
	return given, nil
}

// noteTry notes that a pull request with reservations asks for a lock. What is
// over by now ends first.
func (s *repositoryStep) noteTry(owner enhanced.Owner) error {
	if s.isVacant(rangeReserves) {
		return nil
	}
	prefix := reservesKey(owner, "")
	own := s.reservedBy(prefix, maxStep)
	if len(own) == 0 {
		return nil
	}
	for _, resource := range own {
		if s.inspect(resource).status == reservationOver {
			if _, _, err := s.settle(resource); err != nil {
				return err
			}
		}
	}
	if len(s.reservedBy(prefix, 1)) == 0 {
		return nil
	}
	return s.put(lastTryKey(owner.String()), appendNumber(nil, s.now))
}

// nextReservationEnd returns when the repository's next reservation ends.
func (r *repository) nextReservationEnd() (at int64, found bool) {
	cursor := r.bucket.Cursor()
	for key, data := cursor.Seek([]byte{rangeReserved}); len(key) > 0 && key[0] == rangeReserved; key, data = cursor.Next() {
		v, err := decodeReservation(data)
		if err != nil {
			continue
		}
		if end := r.reservationEnd(v); !found || end < at {
			at, found = end, true
		}
	}
	return at, found
}

// endDueReservations settles up to maxStep resources whose reservation is over.
func (s *repositoryStep) endDueReservations() error {
	var due []enhanced.ResourceIdentifier
	cursor := s.bucket.Cursor()
	for key, data := cursor.Seek([]byte{rangeReserved}); len(key) > 0 && key[0] == rangeReserved && len(due) < maxStep; key, data = cursor.Next() {
		v, err := decodeReservation(data)
		resource, resourceErr := enhanced.ParseResourceKey(s.name, string(key[1:]))
		if err == nil && resourceErr == nil && s.reservationEnd(v) <= s.now {
			due = append(due, resource)
		}
	}
	for _, resource := range due {
		if _, _, err := s.settle(resource); err != nil {
			return err
		}
		if v := s.reservationOf(resource.Key()); v != nil && s.reservationEnd(v) <= s.now {
			// Somebody holds the resource, which a reservation can't stand beside.
			if _, err := s.dropReservation(resource); err != nil {
				return err
			}
		}
	}
	return nil
}
