package backends

import (
	"context"
	"fmt"
	"strconv"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

var (
	_ enhanced.ReservationReader = (*BoltBackend)(nil)
	_ enhanced.ReservationReader = (*RedisBackend)(nil)
)

// LookupReservation returns for whom a resource is kept. See
// [enhanced.ReservationReader].
func (b *BoltBackend) LookupReservation(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.Reservation, error) {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return nil, err
	}
	config := b.config.Load()
	var kept *enhanced.Reservation
	err := b.viewNow(ctx, "look up the reservation of "+resource.String(), func(tx *bbolt.Tx, now int64) error {
		r := b.repository(tx, resource.Namespace, now)
		f := r.inspect(resource)
		switch f.status {
		case reserved:
			if f.isLapse() || config.EnablePriorityQueue {
				kept = newReservation(&f, r.reservationEnd(r.reservationOf(resource.Key())))
			}
		case expired, free, reservationOver:
			kept = b.keptOnceSettled(r, &f, config)
		default:
		}
		return nil
	})
	if err == nil && kept == nil {
		err = enhanced.NewNotFoundError(resource)
	}
	return kept, err
}

// keptOnceSettled is for whom a free resource is kept once what is due on it is done.
func (b *BoltBackend) keptOnceSettled(r *repository, f *finding, config *enhanced.EnhancedConfig) *enhanced.Reservation {
	if f.status == expired {
		if until, closed := f.record.lapseEnd(config, r.now); closed {
			record := *f.record
			record.Expires = until // what is shown
			lapse := *f
			lapse.status, lapse.record = reserved, &record
			return newReservation(&lapse, until)
		}
	}
	if kept := b.keptForSet(r, *f); kept.status == reserved {
		return newReservation(&kept, 0)
	}
	return nil
}

// newReservation is a reservation that ends at a time, or that of a set, which has
// none.
func newReservation(f *finding, until int64) *enhanced.Reservation {
	kept := &enhanced.Reservation{Kind: enhanced.BlockedBySet, Lock: f.lock()}
	if until != 0 {
		ends := time.UnixMicro(until)
		kept.Kind, kept.Until = enhanced.BlockedByReservation, &ends
	}
	if f.isLapse() {
		kept.Kind = enhanced.BlockedByDelay
	}
	return kept
}

// LookupReservation returns for whom a resource is kept. See
// [enhanced.ReservationReader].
func (b *RedisBackend) LookupReservation(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.Reservation, error) {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return nil, err
	}
	operation, config := "look up the reservation of "+resource.String(), b.config.Load()
	// Once it is settled, the script finds it.
	if lapse, err := b.unsettledLapse(ctx, operation, resource, config); err != nil || lapse != nil {
		return lapse, err
	}
	tag := enhanced.RepositoryTag(resource.Namespace)
	keys := []string{b.keys.state(tag), b.keys.key(tag, "deadlines"), b.keys.queue(tag)}
	reply, err := b.run(ctx, operation, b.scripts.reserved, keys, resource.Key(), config.SetReserveAfter.Microseconds())
	switch {
	case err != nil:
		return nil, err
	case len(reply) != 5:
		return nil, enhanced.NewBackendError(operation, fmt.Errorf("script reserved answered %d parts", len(reply)))
	}
	if kept, until := standing(reply, config.EnablePriorityQueue); kept != nil {
		return b.redisReservation(kept.lock, resource, until)
	}
	if reply[3] == "" {
		return nil, enhanced.NewNotFoundError(resource)
	}
	return b.keptForSet(ctx, operation, resource, reply[3], reply[4])
}

// unsettledLapse is what a lease that has ended will have left once it is settled, nil
// for nothing.
func (b *RedisBackend) unsettledLapse(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, config *enhanced.EnhancedConfig) (*enhanced.Reservation, error) {
	if config.UncleanReleaseDelay == 0 {
		return nil, nil
	}
	r, err := b.read(ctx, operation, resource)
	if err != nil || r.record == nil || !r.record.ended {
		return nil, err
	}
	until, closed := r.record.lapseEnd(config, r.now)
	if !closed {
		return nil, nil
	}
	return b.redisReservation(r.record, resource, until)
}

// standing returns the reservation in an answer of the script, and until when it
// stands; nil for none.
func standing(reply []string, queues bool) (*redisReservation, int64) {
	kept, err := decodeRedisReservation(reply[1])
	if err != nil || !kept.isLapse() && !queues {
		return nil, 0 // what can't be read protects a run, and nobody's lock
	}
	now, until := int64(0), kept.until
	// Its deadline is the earlier one once the run has asked for nothing for a while.
	if deadline, err := strconv.ParseFloat(reply[2], 64); err == nil {
		until = min(until, int64(deadline))
	}
	if parseNumbers(reply[:1], &now) != nil || until <= now {
		return nil, 0
	}
	return kept, until
}

// redisReservation is what was reserved, or a lapse, which has had a lease.
func (b *RedisBackend) redisReservation(record *redisRecord, resource enhanced.ResourceIdentifier, until int64) (*enhanced.Reservation, error) {
	lock, err := b.lockOf(record, resource)
	if err != nil {
		return nil, err
	}
	kept := &enhanced.Reservation{Kind: enhanced.BlockedByReservation, Lock: lock}
	ends := time.UnixMicro(until)
	kept.Until, lock.ID, lock.State = &ends, "", enhanced.LockStatePending
	if record.Expires != 0 {
		kept.Kind, lock.ExpiresAt = enhanced.BlockedByDelay, &ends
	}
	return kept, nil
}

// keptForSet is what is kept for the set of a waiter, unless somebody holds it.
func (b *RedisBackend) keptForSet(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, request, record string) (*enhanced.Reservation, error) {
	r, err := b.read(ctx, operation, resource)
	if err != nil {
		return nil, err
	}
	w, err := decodeRedisWaiter(resource.Namespace, request, record)
	if err != nil || r.record != nil && !r.record.ended {
		return nil, enhanced.NewNotFoundError(resource)
	}
	f, err := w.keeps(enhanced.RepositoryTag(resource.Namespace))
	if err != nil {
		return nil, enhanced.NewNotFoundError(resource)
	}
	return newReservation(&f, 0), nil
}
