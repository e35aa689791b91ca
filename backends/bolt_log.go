package backends

import (
	"context"
	"encoding/binary"
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// trimPerStep is how many old records one append removes at most. It is more
// than one, so that a log above its bounds shrinks.
const trimPerStep = 2

// checkpoint is what remains of the records that were removed.
type checkpoint struct {
	Sequence uint64 `json:"sequence,string"`
	Time     int64  `json:"time"`
}

// logCursor walks over a repository's log from after a sequence.
type logCursor struct {
	cursor *bbolt.Cursor
	key    []byte
	data   []byte
}

func (r *repository) logAfter(sequence uint64) logCursor {
	if r.bucket == nil {
		return logCursor{}
	}
	c := logCursor{cursor: r.bucket.Cursor()}
	c.key, c.data = c.cursor.Seek(logKey(sequence + 1))
	return c
}

// valid reports whether the cursor is on a record.
func (c *logCursor) valid() bool { return len(c.key) == 9 && c.key[0] == rangeLog }

func (c *logCursor) sequence() uint64 { return binary.BigEndian.Uint64(c.key[1:]) }

// logFromEnd starts with the latest record.
func (r *repository) logFromEnd() logCursor {
	c := logCursor{cursor: r.bucket.Cursor()}
	c.cursor.Seek([]byte{rangeLog + 1}) // there is always more than the log
	c.previous()
	return c
}

func (c *logCursor) previous() { c.key, c.data = c.cursor.Prev() }

func (c *logCursor) next() { c.key, c.data = c.cursor.Next() }

// lastSequence returns the sequence of the latest log record, 0 before the first.
func (r *repository) lastSequence() uint64 {
	if r.bucket == nil {
		return 0
	}
	return r.bucket.Sequence()
}

// outdatedRecord is a log record that is to be removed. Its time is 0 where it
// can't be read.
type outdatedRecord struct {
	sequence uint64
	time     int64
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

// trim removes up to limit outdated records, and leaves a checkpoint.
func (s *repositoryStep) trim(limit int) error {
	outdated := s.outdated(s.backend.config.Load(), limit)
	if len(outdated) == 0 {
		return nil
	}
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
			return errors.Join(s.trim(maxStep), s.forget(maxStep), s.sweepQueue())
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
