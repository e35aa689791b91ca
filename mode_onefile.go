package enhanced

import "github.com/runatlantis/atlantis/server/events/models"

// oneFileLocks needs the grants of two databases that are in one file. Each step of
// the store takes over there what the legacy database has granted or released, and
// writes what it decides in both forms, in one transaction. So its grant is both.
type oneFileLocks struct{ *storeLocks }

// TryLock does not wait in the queue, unlike that of storeLocks.
func (l oneFileLocks) TryLock(newLock models.ProjectLock) (bool, models.ProjectLock, error) {
	ctx, cancel := l.operationContext()
	defer cancel()
	holder, _, fresh, err := l.take(ctx, newLock, nil)
	if err != nil {
		return false, models.ProjectLock{}, err
	}
	return answerTryLock(l.request(newLock), holder, fresh)
}

// findFile sees whether the legacy database is in the store's file. When it can't
// see that, each is asked by itself, which is right in any case.
func (m *member) findFile() {
	if _, ok := m.adapter.backend.(stillStore); !ok || m.adapter.legacy == nil {
		return
	}
	same, err := isSameStore(m.adapter.legacy, m.adapter.backend)
	if err != nil {
		m.adapter.logger.Warn("adapter %q can't see whether the legacy database is in the store's file: %v", m.name, err)
	}
	m.oneFile.Store(same)
}

// inOneFile says that a step of the store is one of the legacy database, too.
func (m *member) inOneFile() bool { return m.oneFile.Load() && m.mirrored() }
