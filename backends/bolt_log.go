package backends

import (
	"context"
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

const (
	// trimPerStep is how many old records one append removes at most, on average. It is
	// more than one, so that a log above its bounds shrinks.
	trimPerStep = 2
	// longLog is the length of a log from which on several records are removed at a time.
	longLog = 100
)

// checkpoint is what remains of the records that were removed.
type checkpoint struct {
	Sequence uint64 `json:"sequence,string"`
	Time     int64  `json:"time"`
}

// lastSequence returns the sequence of the latest log record, 0 before the first.
func (r *repository) lastSequence() uint64 {
	if r.bucket == nil {
		return 0
	}
	return r.bucket.Sequence()
}

// outdatedRecord is a log record that is to be removed, now or later. Its time is 0
// where it can't be read.
type outdatedRecord struct {
	sequence uint64
	time     int64
}

// oldest returns the log's first record, nil where there is none that can be read.
func (r *repository) oldest() *outdatedRecord {
	c := r.logAfter(0)
	if !c.valid() {
		return nil
	}
	record, err := decodeLogRecord(r.name, c.sequence(), c.data)
	if err != nil {
		return nil
	}
	return &outdatedRecord{c.sequence(), record.Time.UnixMicro()}
}

// isOutdated reports whether a record, whose time is known, is to be removed.
func (r *repository) isOutdated(record outdatedRecord, config *enhanced.EnhancedConfig) bool {
	return r.lastSequence()-record.sequence >= uint64(config.LogMaxRecords) || //nolint:gosec // validated
		record.time < r.now-config.LogMaxAge.Microseconds()
}

// outdated returns up to limit of the log's first records that are beyond
// LogMaxRecords or older than LogMaxAge. One that can't be read is as old as a
// later one is at least: it must not keep those behind it.
func (r *repository) outdated(config *enhanced.EnhancedConfig, limit int) []outdatedRecord {
	last := r.lastSequence()
	oldest := r.now - config.LogMaxAge.Microseconds()
	var found []outdatedRecord
	known := 0 // how many of found are outdated for sure
	for c := r.logAfter(0); c.valid() && known < limit && len(found) < limit+maxStep; c.next() {
		next := outdatedRecord{sequence: c.sequence()}
		tooMany := last-next.sequence >= uint64(config.LogMaxRecords) //nolint:gosec // validated
		record, err := decodeLogRecord(r.name, next.sequence, c.data)
		if err == nil {
			if next.time = record.Time.UnixMicro(); !tooMany && next.time >= oldest {
				break
			}
		}
		found = append(found, next)
		if tooMany || err == nil {
			known = len(found)
		}
	}
	return found[:min(known, limit)]
}

// trimAsItGrows removes outdated records after one was added, of a long log some at a
// time and before they are too many: each time costs pages that nothing else changes.
// moved says that records were moved to the archive.
func (s *repositoryStep) trimAsItGrows(moved bool) error {
	config, m := s.backend.config.Load(), s.memory()
	if m.oldest == nil {
		m.oldest = s.oldest()
	}
	if m.oldest == nil {
		return s.trim(config, trimPerStep)
	}
	length := s.lastSequence() - m.oldest.sequence
	switch {
	case !s.isOutdated(*m.oldest, config):
		return nil
	case length < longLog:
		return s.trim(config, trimPerStep)
	case !moved && length < uint64(config.LogMaxRecords): //nolint:gosec // validated
		return nil // it is only too old
	}
	earlier := *config
	earlier.LogMaxRecords = max(config.LogMaxRecords-maxRecent, 1)
	return s.trim(&earlier, trimPerStep*maxRecent)
}

// trim removes up to limit outdated records, and leaves a checkpoint.
func (s *repositoryStep) trim(config *enhanced.EnhancedConfig, limit int) error {
	outdated := s.outdated(config, limit)
	if len(outdated) == 0 {
		return nil
	}
	s.memoryToChange().oldest = nil
	var point checkpoint
	for _, record := range outdated {
		point.Sequence = record.sequence
		point.Time = max(point.Time, record.time)
	}
	value, err := encode(point)
	if err != nil {
		return err
	}
	err = s.put(checkpointKey(), value)
	for _, record := range outdated {
		err = errors.Join(err, s.trimRecord(record))
	}
	return err
}

// trimRecord removes a record. What is to be remembered longer is kept.
func (s *repositoryStep) trimRecord(record outdatedRecord) error {
	key := logKey(record.sequence)
	var err error
	if record.time+memoryTime.Microseconds() > s.now {
		if stored, readErr := readLogRecord(s.name, s.get(key)); readErr == nil {
			err = s.keepEnding(stored)
		}
	}
	return errors.Join(err, s.delete(key))
}

// sweep trims the logs and the memory of repositories in which nothing happens
// any more.
func (b *BoltBackend) sweep(ctx context.Context) error {
	var names []string
	config := b.config.Load()
	err := b.viewNow(ctx, "look for old records", func(tx *bbolt.Tx, now int64) error {
		eachRepository(tx, now, func(r *repository) {
			if len(r.keysUntilNow(rangeForget, 1)) > 0 || len(r.outdated(config, 1)) > 0 || r.hasLate(config) || len(r.outdatedMarks(config, 1)) > 0 {
				names = append(names, r.name)
			}
		})
		return nil
	})
	err = errors.Join(err, b.committer.do(ctx, "forget ended locks", func(batch *batch) error {
		b.forgetAll(batch.now)
		return nil
	}))
	for _, name := range names {
		err = errors.Join(err, b.committer.do(ctx, "trim the log of "+name, func(batch *batch) error {
			s := b.repositoryStep(batch, name)
			return errors.Join(s.trim(config, maxStep), s.forget(maxStep), s.sweepQueue())
		}))
	}
	return err
}

// ReadLog returns records of a repository's log. See [enhanced.Backend].
func (b *BoltBackend) ReadLog(ctx context.Context, repository string, after uint64, limit int) (*enhanced.LogPage, error) {
	if limit < 1 {
		return nil, enhanced.NewInvalidError("limit %d; give at least 1", limit)
	}
	page := &enhanced.LogPage{}
	err := b.view(ctx, "read the log of "+repository, func(tx *bbolt.Tx) error {
		r := b.repository(tx, repository, 0)
		page.Trimmed = r.trimmed()
		for c := r.logAfter(after); c.valid(); c.next() {
			if len(page.Records) == limit {
				page.More = true
				return nil
			}
			record, err := decodeLogRecord(repository, c.sequence(), c.data)
			if err != nil {
				// Named instead of hidden: a reader sees that it is there.
				record = &enhanced.LogRecord{Sequence: c.sequence(), Type: enhanced.EventUnreadable}
				record.Resource.Namespace = repository
			}
			page.Records = append(page.Records, record)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// trimmed returns the sequence up to which records were removed.
func (r *repository) trimmed() uint64 {
	var point checkpoint
	if err := decode(r.get(checkpointKey()), &point); err != nil {
		return 0
	}
	return point.Sequence
}

// ListRepositories returns the repositories that have a log. See
// [enhanced.Backend].
func (b *BoltBackend) ListRepositories(ctx context.Context) ([]string, error) {
	var names []string
	err := b.view(ctx, "list repositories", func(tx *bbolt.Tx) error {
		eachRepository(tx, 0, func(r *repository) { names = append(names, r.name) })
		return nil
	})
	return names, err
}
