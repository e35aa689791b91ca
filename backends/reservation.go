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
	var kept *enhanced.Reservation
	err := b.viewNow(ctx, "look up the reservation of "+resource.String(), func(tx *bbolt.Tx, now int64) error {
		r := b.repository(tx, resource.Namespace, now)
		f := r.inspect(resource)
		if f.status != reserved || !f.isLapse() && !b.config.Load().EnablePriorityQueue {
			return enhanced.NewNotFoundError(resource)
		}
		kept = &enhanced.Reservation{
			Lock: f.lock(), Until: time.UnixMicro(r.reservationEnd(r.reservationOf(resource.Key()))), Delay: f.isLapse(),
		}
		return nil
	})
	return kept, err
}

// LookupReservation returns for whom a resource is kept. See
// [enhanced.ReservationReader].
func (b *RedisBackend) LookupReservation(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.Reservation, error) {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return nil, err
	}
	operation := "look up the reservation of " + resource.String()
	tag := enhanced.RepositoryTag(resource.Namespace)
	reply, err := b.run(ctx, operation, b.scripts.reserved, []string{b.keys.state(tag), b.keys.key(tag, "deadlines")}, resource.Key())
	switch {
	case err != nil:
		return nil, err
	case len(reply) != 3:
		return nil, enhanced.NewBackendError(operation, fmt.Errorf("script reserved answered %d parts", len(reply)))
	case reply[1] == "":
		return nil, enhanced.NewNotFoundError(resource)
	}
	kept, err := decodeRedisReservation(reply[1])
	if err != nil || !kept.isLapse() && !b.config.Load().EnablePriorityQueue {
		return nil, enhanced.NewNotFoundError(resource) // what can't be read protects a run, and nobody's lock
	}
	now, until := int64(0), kept.until
	if err := parseNumbers(reply[:1], &now); err != nil {
		return nil, enhanced.NewBackendError(operation, err)
	}
	// Its deadline is the earlier one once the run has asked for nothing for a while.
	if deadline, err := strconv.ParseFloat(reply[2], 64); err == nil {
		until = min(until, int64(deadline))
	}
	if until <= now {
		return nil, enhanced.NewNotFoundError(resource)
	}
	lock, err := b.lockOf(kept.lock, resource)
	if err != nil {
		return nil, err
	}
	ends := time.UnixMicro(until)
	lock.ID, lock.State = "", enhanced.LockStatePending
	if kept.isLapse() {
		lock.ExpiresAt = &ends
	}
	return &enhanced.Reservation{Lock: lock, Until: ends, Delay: kept.isLapse()}, nil
}
