package enhanced

import (
	"context"

	"github.com/runatlantis/atlantis/server/events/models"
)

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

// findFile sees whether the legacy database keeps its locks where the store mirrors
// them. When it can't see that, each is asked by itself, which is right in any case.
func (m *member) findFile(ctx context.Context) {
	store, ok := m.adapter.backend.(stillStore)
	if !ok || m.adapter.legacy == nil {
		return
	}
	same, err := isSameStore(m.adapter.legacy, m.adapter.backend)
	if same {
		err = onlyStockBuckets(ctx, store)
	}
	if err != nil {
		m.adapter.logger.Warn("adapter %q can't see whether the legacy database has its locks where the store mirrors them, so it asks each by itself: %v", m.name, err)
	}
	m.oneFile.Store(same && err == nil)
}

// onlyStockBuckets makes sure that stock's boltdb in the store's file has its locks in
// the bucket that the store mirrors. Its constructor for an open file lets the caller
// name another one, which has to be there before it is used; and a lock that is tried
// would be seen by others.
func onlyStockBuckets(ctx context.Context, store stillStore) error {
	unknown, err := store.UnknownBuckets(ctx)
	if err == nil && len(unknown) > 0 {
		err = NewInvalidError("the file has buckets of others: %q; one of them can be that of its locks", unknown)
	}
	return err
}

// inOneFile says that a step of the store is one of the legacy database, too.
func (m *member) inOneFile() bool { return m.oneFile.Load() && m.mirrored() }
