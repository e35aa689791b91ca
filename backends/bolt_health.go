package backends

import (
	"context"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// maxProbe bounds what a health check writes.
const maxProbe = 1 << 20

// HealthCheck returns nil when the file can be read and the latest write
// reached the disk. After one that did not it tries another, so that a store
// that works again is found out without anybody asking for a lock.
func (b *BoltBackend) HealthCheck(ctx context.Context) error {
	const operation = "health check"
	if err := b.view(ctx, operation, func(*bbolt.Tx) error { return nil }); err != nil {
		return err
	}
	failed := b.committer.lastFailure()
	if failed.err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.config.Load().OperationTimeout)
	defer cancel()
	err := b.probe(ctx, operation, min(failed.size, maxProbe))
	if err == nil {
		return nil
	}
	if last := b.committer.lastFailure(); last.err != nil {
		err = last.err
	}
	return enhanced.NewBackendError("the latest write failed", err)
}

// probe writes as much as the write that failed, and removes it again. Less
// would say nothing: on a full disk there is still room for it in pages that
// the file has already.
func (b *BoltBackend) probe(ctx context.Context, operation string, size int) error {
	err := b.committer.do(ctx, operation, func(batch *batch) error {
		batch.dirty, batch.probe = true, max(size, 1)
		return batch.tx.Bucket(rootBucket()).Put(probeKey(), make([]byte, max(size, 1)))
	})
	if err != nil {
		return err
	}
	return b.committer.do(ctx, operation, func(batch *batch) error {
		batch.dirty, batch.probe = true, max(size, 1)
		return batch.tx.Bucket(rootBucket()).Delete(probeKey())
	})
}
