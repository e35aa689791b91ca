package backends

import (
	"context"
	"errors"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/recorder"
	"go.etcd.io/bbolt"
)

// GetLock returns the lock with the ID. See [enhanced.Backend].
func (b *BoltBackend) GetLock(ctx context.Context, lockID string) (*enhanced.EnhancedLock, error) {
	tag, token, ok := enhanced.ParseLockID(lockID)
	if !ok {
		return nil, enhanced.NewUnknownLockError(lockID)
	}
	var lock *enhanced.EnhancedLock
	ended := false
	err := b.viewNow(ctx, "get lock "+lockID, func(tx *bbolt.Tx, now int64) error {
		name, found := repositoryName(tx, tag)
		if !found {
			return enhanced.NewUnknownLockError(lockID)
		}
		r := b.repository(tx, name, now)
		resource, err := enhanced.ParseResourceKey(r.name, r.heldUnder(token))
		if err != nil {
			ended = true
			return enhanced.NewUnknownLockError(lockID)
		}
		f := r.inspect(resource)
		switch {
		case f.status == unreadable:
			return enhanced.NewCorruptError(resource, f.name)
		case f.status == held && f.record.Token == token:
			lock = f.lock()
			return nil
		case f.status == expired && f.record.Token == token:
			return enhanced.NewExpiredError(lockID, resource)
		default:
			return enhanced.NewUnknownLockError(lockID)
		}
	})
	if ended {
		// Steps know how locks ended.
		return b.changeLock(ctx, "get", lockID, func(*repositoryStep, *finding) error { return nil })
	}
	return lock, err
}

// LookupLock returns the lock on a resource. See [enhanced.Backend].
func (b *BoltBackend) LookupLock(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return nil, err
	}
	operation := "look up " + resource.String()
	var f finding
	var behind bool
	err := b.viewNow(ctx, operation, func(tx *bbolt.Tx, now int64) error {
		r := b.repository(tx, resource.Namespace, now)
		f = r.inspect(resource)
		behind = f.status == heldByStock || f.status == releasedByStock
		switch f.status {
		case releasedByStock:
			f = r.inspectLegacy(resource)
		case expired, expiredElsewhere:
			for _, rival := range r.rivalsOf(&f) {
				if rival.resource == resource {
					f, behind = rival, true
				}
			}
		default:
		}
		return nil
	})
	if err == nil && behind {
		// Following stock gives its lock an ID. When that fails, what stock
		// has recorded is still the answer.
		var settled finding
		settled, err = decide(ctx, b.committer, operation, func(batch *batch) (finding, error) {
			settled, _, err := b.repositoryStep(batch, resource.Namespace).settle(resource)
			return settled, err
		})
		switch {
		case err == nil:
			f = settled
		case errors.Is(err, enhanced.ErrBackend):
			b.logger.Err("following stock Atlantis on %s: %v", resource, err)
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	switch f.status {
	case held, heldByStock:
		return f.lock(), nil
	case unreadable:
		return nil, enhanced.NewCorruptError(resource, f.name)
	default:
		return nil, enhanced.NewNotFoundError(resource)
	}
}

// LocksByLegacyKey returns the locks whose resources have stock's key. See
// [enhanced.Backend].
func (b *BoltBackend) LocksByLegacyKey(ctx context.Context, key string) ([]*enhanced.EnhancedLock, error) {
	var candidates []enhanced.ResourceIdentifier
	err := b.view(ctx, "look up key "+key, func(tx *bbolt.Tx) error {
		if value := tx.Bucket(legacyLocks()).Get([]byte(key)); value != nil {
			if lock, err := decodeProjectLock(value); err == nil {
				candidates = append(candidates, enhanced.ProjectResource(lock.Project, lock.Workspace))
			}
		}
		candidates = append(candidates, b.recordedSplits(tx, key)...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var locks []*enhanced.EnhancedLock
	for i, resource := range candidates {
		if slices.Contains(candidates[:i], resource) {
			continue
		}
		lock, err := b.LookupLock(ctx, resource)
		switch {
		case err == nil:
			locks = append(locks, lock)
		case !errors.Is(err, enhanced.ErrLockNotFound):
			return nil, err
		}
	}
	return locks, nil
}

// recordedSplits returns every resource with our record whose legacy key is
// key. Only splits whose first part is a repository in the store are tried.
func (b *BoltBackend) recordedSplits(tx *bbolt.Tx, key string) (found []enhanced.ResourceIdentifier) {
	for repositoryName, rest := range splits(key) {
		r := b.repository(tx, repositoryName, 0)
		if r.bucket == nil {
			continue
		}
		for path, rest := range splits(rest) {
			for workspace, name := range splits(rest) {
				resource := enhanced.ResourceIdentifier{
					Type: enhanced.ResourceTypeProject, Namespace: repositoryName,
					Path: path, Workspace: workspace, Name: name,
				}
				if r.get(lockKey(resource.Key())) != nil {
					found = append(found, resource)
				}
			}
		}
	}
	return found
}

// splits yields every way to cut text in two at a slash.
func splits(text string) func(yield func(before, after string) bool) {
	return func(yield func(before, after string) bool) {
		for i := range len(text) {
			if text[i] == '/' && !yield(text[:i], text[i+1:]) {
				return
			}
		}
	}
}

// newStats returns what this process has counted.
func newStats(r *recorder.Recorder) *enhanced.BackendStats {
	s := r.Snapshot()
	return &enhanced.BackendStats{
		TotalRequests:      s.Acquired + s.Refused + s.Failed,
		SuccessfulAcquires: s.Acquired,
		Refused:            s.Refused,
		StoreFailures:      s.Failed,
		Releases:           s.Released,
		Expirations:        s.Expired,
		UncheckedWaits:     s.Unchecked,
		AverageWaitTime:    s.AverageWait,
		AverageHoldTime:    s.AverageHold,
		RecentFailureRate:  s.RecentFailureRate,
	}
}

// GetStats returns the statistics. See [enhanced.Backend].
func (b *BoltBackend) GetStats(ctx context.Context) (*enhanced.BackendStats, error) {
	stats := newStats(&b.recorder)
	err := b.HealthCheck(ctx)
	if err == nil {
		err = b.countLocks(ctx, stats)
	}
	stats.HealthScore = enhanced.HealthScore(stats, err)
	return stats, err
}

// countLocks counts without decoding stock's form of each lock: a copy with
// the right checksum is what this code has written.
func (b *BoltBackend) countLocks(ctx context.Context, stats *enhanced.BackendStats) error {
	// Statistics are also asked for while stock decides, and write nothing.
	err := b.viewNow(ctx, "count locks", func(tx *bbolt.Tx, now int64) error {
		overtaken := b.countStock(tx, now, stats)
		eachRepository(tx, now, func(r *repository) {
			r.allWaiters(func(w *waiter) {
				if b.isAlive(r.name, w.waiterRecord, now) {
					stats.QueueDepth++
				}
			})
			r.locks(func(resource enhanced.ResourceIdentifier, data []byte, err error) {
				if err != nil {
					stats.UnreadableRecords = append(stats.UnreadableRecords, err.Error())
					return
				}
				switch record, err := decodeLockRecord(r.name, data); {
				case err != nil:
					stats.UnreadableRecords = append(stats.UnreadableRecords, recordName(r.tag, resource.Key()))
				case !record.expiredAt(now) && !overtaken[resource]:
					stats.ActiveLocks++
				}
			})
		})
		return nil
	})
	return err
}

// countStock counts the locks that only stock has recorded, and names its
// unreadable records. It returns the resources of ours that stock has released.
func (b *BoltBackend) countStock(tx *bbolt.Tx, now int64, stats *enhanced.BackendStats) map[enhanced.ResourceIdentifier]bool {
	found, clean := b.known(tx, now, "")
	if !clean {
		found = drift(tx, now, b.config.Load().PreserveLegacyFormat, "")
	}
	stats.UnreadableRecords = append(stats.UnreadableRecords, found.unreadable...)
	overtaken := make(map[enhanced.ResourceIdentifier]bool)
	for _, resource := range found.behind {
		if overtaken[resource] {
			continue
		}
		overtaken[resource] = true
		if f := b.repository(tx, resource.Namespace, now).inspectLegacy(resource); f.status == heldByStock {
			stats.ActiveLocks++
		}
	}
	return overtaken
}

// NextDeadline returns how long it is until the next lease ends. See
// [enhanced.Backend].
func (b *BoltBackend) NextDeadline(ctx context.Context) (time.Duration, bool, error) {
	var next, clock int64
	var found bool
	err := b.viewNow(ctx, "next deadline", func(tx *bbolt.Tx, now int64) error {
		clock = now
		eachRepository(tx, now, func(r *repository) {
			if at, ok := r.nextDeadline(); ok && (!found || at < next) {
				next, found = at, true
			}
		})
		return nil
	})
	return time.Duration(next-clock) * time.Microsecond, found, err
}

// overdue returns a repository with a lease that is due.
func (b *BoltBackend) overdue(ctx context.Context) (name string, found bool, err error) {
	err = b.viewNow(ctx, "look for due leases", func(tx *bbolt.Tx, now int64) error {
		eachRepository(tx, now, func(r *repository) {
			if at, ok := r.nextDeadline(); ok && at <= now {
				name, found = r.name, true
			}
		})
		return nil
	})
	return name, found, err
}

// repositoryName returns the name of the repository with the tag.
func repositoryName(tx *bbolt.Tx, tag string) (string, bool) {
	bucket := repositoryBucket(tx, tag)
	if bucket == nil {
		return "", false
	}
	return string(bucket.Get(nameKey())), true
}
