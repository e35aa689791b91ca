package enhanced

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"time"
)

// RefreshLock is [Backend.RefreshLock]: the lease of a lock ends extension from
// now. No authorizer is asked: it goes on with what was allowed. It is not
// repeated either; a [Handle] does that, within the lease.
func (m *EnhancedLockManager) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	if _, err := m.ready(ctx); err != nil {
		return err
	}
	return m.backend.RefreshLock(ctx, lockID, extension)
}

// renewAfter returns when, after it was sent, a renewal is followed by the next.
func (h *Handle) renewAfter() time.Duration { return h.lease / 3 }

// keep renews the lease until the lock is lost or released.
func (h *Handle) keep() {
	defer close(h.stopped)
	timer := time.NewTimer(h.untilRenewal())
	defer timer.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-timer.C:
		}
		//nolint:errcheck // what went wrong is noted, and the context tells of the end
		_, _ = h.retry.Do(h.ctx, func(error) bool { return h.ctx.Err() == nil }, h.renew)
		timer.Reset(h.untilRenewal())
	}
}

// untilRenewal is how long to wait for the next renewal. It comes up to a thirtieth of
// the lease early, so that handles of a process with leases of one length renew them at
// the same moments: what travels together costs client and store a fraction of what
// single calls do. Processes have moments of their own.
func (h *Handle) untilRenewal() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.renewAfter() - h.sent.since()
	at := time.Now().Add(left - h.phase)
	return left - at.Sub(at.Truncate(h.lease/30))
}

// phaseOfProcess is below a length of time, and another one for each process.
func phaseOfProcess(length time.Duration) time.Duration {
	host, _ := os.Hostname() //nolint:errcheck // then it is the number alone
	sum := fnv.New32a()
	_, _ = fmt.Fprintf(sum, "%s %d", host, os.Getpid()) //nolint:errcheck // it never fails
	return time.Duration(uint64(sum.Sum32()) % uint64(length))
}

// renew is one attempt to renew the lease. A reply that is lost costs a sixth of
// the lease, so that there is time for another attempt.
func (h *Handle) renew(ctx context.Context) error {
	lease, err := h.nextLease()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.lease/6)
	defer cancel()
	sent := rightNow()
	err = h.leaser.RefreshLock(ctx, h.lock.ID, lease)
	h.note(sent, lease, err)
	return err
}

// nextLease returns the lease to ask for, or why there is none to ask for: after
// a pause this is the first that knows. Near the maximum hold it is shorter, so
// that the store frees the lock of a holder that is stuck.
func (h *Handle) nextLease() (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.check(); err != nil || h.maxHold == 0 {
		return h.lease, err
	}
	return min(h.lease, max(h.maxHold-h.got.since()+h.margin, time.Millisecond)), nil
}

// note notes how a renewal went. What is lost by now stays lost.
func (h *Handle) note(sent instant, lease time.Duration, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.check() != nil:
	case err == nil:
		h.sent, h.valid, h.failure = sent, lease-h.margin, nil
		h.watch.Reset(h.remaining())
	case isGone(err):
		h.gone = true
		h.end(h.lost(err))
	default:
		h.failure = err
	}
}

// isGone reports whether a store has answered that there is no such lock (any more).
func isGone(err error) bool {
	return errors.Is(err, ErrLockNotFound) || errors.Is(err, ErrLockExpired)
}
