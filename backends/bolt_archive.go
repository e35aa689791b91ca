package backends

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// The log's records are beside the rest of a repository only for a while: a few of them,
// then they are moved together into a bucket of their own, the archive. A repository
// with few locks then is one page, however long its log is, and mostly a step writes
// that one.

// How many records are not in the archive: minRecent may always be there, and up to
// maxRecent where the repository is one page with them still.
const (
	minRecent = 8
	maxRecent = 12
)

// keptRoom is what is left free of a page: enough for a lock or two.
const keptRoom = 768

func archiveKey() []byte { return []byte("A") }

// archive returns the bucket with all but the last few records of the log, nil for none.
func (r *repository) archive() *bbolt.Bucket {
	if r.bucket == nil {
		return nil
	}
	return r.bucket.Bucket(archiveKey())
}

// archived returns the sequence of the last record in the archive, 0 for none.
func (r *repository) archived() uint64 {
	archive := r.archive()
	if archive == nil {
		return 0
	}
	key, _ := archive.Cursor().Last()
	if !isLogKey(key) {
		return 0
	}
	return uint64(number(key[1:])) //nolint:gosec // the same bits
}

// moveToArchive moves the records before a sequence that are beside the rest of the
// repository.
func (r *repository) moveToArchive(before uint64) error {
	first, end := logKey(1), logKey(before)
	cursor := r.cursor()
	isNext := func(key, value []byte) bool {
		return isLogKey(key) && value != nil && bytes.Compare(key, end) < 0
	}
	key, value := cursor.Seek(first)
	if !isNext(key, value) {
		return nil
	}
	archive, err := r.bucket.CreateBucketIfNotExists(archiveKey())
	if err != nil {
		return fmt.Errorf("the archive of repository %q: %w", r.name, err)
	}
	archive.FillPercent = fillPercent
	// Each time from the start: after a change a cursor has to be positioned again.
	for key, value = cursor.Seek(first); isNext(key, value); key, value = cursor.Seek(first) {
		if err := errors.Join(archive.Put(key, value), cursor.Delete()); err != nil {
			return err
		}
	}
	return nil
}

// appendRecord writes the log's next record, and reports whether it has moved those before
// to the archive.
func (s *repositoryStep) appendRecord(sequence uint64, data []byte) (moved bool, err error) {
	m := s.memoryToChange()
	recent := sequence - m.archived
	if recent == minRecent+1 {
		m.room = s.room()
	}
	if moved = recent > minRecent+m.room; moved {
		err = s.moveToArchive(sequence)
		m.archived = sequence - 1
	}
	return moved, errors.Join(err, s.bucket.Put(logKey(sequence), data))
}

// room returns how many records more than minRecent may be beside the rest, by the length
// of those that are there.
func (r *repository) room() uint64 {
	const ofEach = 16 // bbolt's header of a page, and of each entry
	free, logged := r.tx.DB().Info().PageSize-ofEach-keptRoom, 0
	cursor := r.bucket.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		size := ofEach + len(key) + len(value)
		if free -= size; free < 0 {
			return 0
		}
		if isLogKey(key) {
			logged += size
		}
	}
	if logged == 0 {
		return 0
	}
	return uint64(min(free*minRecent/logged, maxRecent-minRecent)) //nolint:gosec // not negative
}

// homeOf returns the bucket that has a key of the repository, or is to get it.
func (r *repository) homeOf(key []byte) *bbolt.Bucket {
	if len(key) == 0 || key[0] != rangeLog || r.bucket.Get(key) != nil {
		return r.bucket
	}
	if archive := r.archive(); archive != nil && isLogKey(key) && uint64(number(key[1:])) <= r.archived() { //nolint:gosec // the same bits
		return archive
	}
	return r.bucket
}

func isLogKey(key []byte) bool { return len(key) == 9 && key[0] == rangeLog }

// logCursor walks over a repository's log: over the archive, then over the records that
// are beside the rest.
type logCursor struct {
	archive, recent *bbolt.Cursor
	inArchive       bool
	key             []byte
	data            []byte
}

func (r *repository) logCursor() logCursor {
	c := logCursor{recent: r.bucket.Cursor()}
	if archive := r.archive(); archive != nil {
		c.archive = archive.Cursor()
	}
	return c
}

// logAfter starts with the first record after a sequence.
func (r *repository) logAfter(sequence uint64) logCursor {
	if r.bucket == nil {
		return logCursor{}
	}
	c := r.logCursor()
	if c.archive != nil {
		c.key, c.data = c.archive.Seek(logKey(sequence + 1))
		if c.inArchive = c.valid(); c.inArchive {
			return c
		}
	}
	c.key, c.data = c.recent.Seek(logKey(sequence + 1))
	return c
}

// logFromEnd starts with the latest record.
func (r *repository) logFromEnd() logCursor {
	c := r.logCursor()
	c.recent.Seek([]byte{rangeLog + 1}) // there is always more than the log
	c.previous()
	return c
}

// valid reports whether the cursor is on a record.
func (c *logCursor) valid() bool { return isLogKey(c.key) && c.data != nil }

func (c *logCursor) sequence() uint64 { return uint64(number(c.key[1:])) } //nolint:gosec // the same bits

func (c *logCursor) next() {
	if !c.inArchive {
		c.key, c.data = c.recent.Next()
		return
	}
	if c.key, c.data = c.archive.Next(); !c.valid() {
		c.inArchive = false
		c.key, c.data = c.recent.Seek(logKey(1))
	}
}

func (c *logCursor) previous() {
	if c.inArchive {
		c.key, c.data = c.archive.Prev()
		return
	}
	if c.key, c.data = c.recent.Prev(); !c.valid() && c.archive != nil {
		c.inArchive = true
		c.key, c.data = c.archive.Last()
	}
}
