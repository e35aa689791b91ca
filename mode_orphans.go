package enhanced

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// orphans are locks of the legacy database that the store, which decides until a
// switch, does not hold: they are from before, by somebody who has asked the legacy
// database alone, or of an adapter that has died between the two.
//
// An operation that is under way has such a lock for a moment. At most moments some
// are, so to wait for a look that shows none could take for ever. Instead those of one
// look are followed, until each is gone or the store's. One that stays for longer than
// an operation takes is released. It must stay the same: one that was released and
// taken again has another time. When none is left, those of one last look are
// followed, so that what has come meanwhile is not left there.
type orphans struct {
	epoch int64
	// since is when those that are followed were seen first.
	since map[string]time.Time
	// looks are how many more times those of a look are to be followed.
	looks int
}

// orphanLooks are the first look of a switch, and the one at its end.
const orphanLooks = 2

// look is told what there is now. Its error says what is left of those it follows.
func (o *orphans) look(m *member, epoch int64, found []models.ProjectLock) error {
	if o.epoch != epoch {
		*o = orphans{epoch: epoch, looks: orphanLooks, since: make(map[string]time.Time)}
	}
	now := make(map[string]models.ProjectLock)
	for _, lock := range found {
		now[keysOf([]models.ProjectLock{lock})[0]+lock.Time.UTC().Format(time.RFC3339Nano)] = lock
	}
	for {
		problems := o.follow(m, now)
		if len(o.since) > 0 || o.looks == 0 {
			return errors.Join(problems...)
		}
		o.looks--
		for key := range now {
			o.since[key] = time.Now()
		}
	}
}

// follow returns what is left of those that are followed.
func (o *orphans) follow(m *member, now map[string]models.ProjectLock) (problems []error) {
	for _, key := range slices.Sorted(maps.Keys(o.since)) {
		lock, found := now[key]
		if found {
			if err := m.orphan(lock, o.since[key]); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		delete(o.since, key)
		delete(now, key)
	}
	return problems
}

// again has what the next look shows be followed, too: the switch is not at its end.
func (o *orphans) again() { o.looks = max(o.looks, 1) }

// orphan releases one that has stayed for long enough.
func (m *member) orphan(lock models.ProjectLock, since time.Time) error {
	if time.Since(since) <= 2*m.adapter.state.Load().config.OperationTimeout {
		return fmt.Errorf("%s: the legacy database says %s, the store does not; that may be a lock that is being taken, and is looked at again",
			ProjectResource(lock.Project, lock.Workspace), heldBy(&lock))
	}
	return m.releaseOrphan(lock)
}

func (m *member) releaseOrphan(lock models.ProjectLock) error {
	released, err := m.legacy().UnlockIfOwnedByPull(lock.Project, lock.Workspace, lock.Pull.Num)
	if err != nil || released == nil {
		return err
	}
	return m.afterRelease(*released)
}
