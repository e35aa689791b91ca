package backends

import (
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// A lapse is a reservation that follows a lease which its holder has let end: the
// resource stays closed to others for UncleanReleaseDelay after that, so that a
// holder that has stalled can notice its loss before somebody else begins. Its
// owner can take the lock again. Nothing but that and a forced release ends it
// earlier: no owner's entry leads to it, and it stands while the queue is off.

// isLapse tells a lapse from other reservations: its lock has had a lease.
func (v *reservation) isLapse() bool { return v.Lock.Expires != 0 }

// isLapse reports whether what was found is reserved because of a lapse.
func (f *finding) isLapse() bool {
	return f.status == reserved && f.record != nil && f.record.Expires != 0
}

// lapseEnd returns until when a resource is closed whose lease has ended, and whether
// it is.
func (r *lockRecord) lapseEnd(config *enhanced.EnhancedConfig, now int64) (until int64, closed bool) {
	until = r.Expires + config.UncleanReleaseDelay.Microseconds()
	return until, !r.Pending && until > now
}

// expire ends a lock whose lease has run out.
func (s *repositoryStep) expire(f *finding) error {
	c := change{actor: enhanced.SystemStore, cause: enhanced.CauseExpired}
	until, closed := f.record.lapseEnd(s.backend.config.Load(), s.now)
	if !closed {
		return s.end(f, f.record.expiryEvent(), c)
	}
	c.reason = enhanced.ReasonUncleanRelease
	err := s.end(f, enhanced.EventTimeout, c)
	if f.original == nil { // it can't be read
		original, transferErr := enhanced.TransferProjectLock(models.ProjectLock{
			Project: f.resource.Project(), Workspace: f.resource.Workspace,
		}, f.owner())
		f.original, err = &original, errors.Join(err, transferErr)
	}
	return errors.Join(err, s.putReservation(f, &reservation{Since: s.now, Until: until, Lock: *f.record}))
}
