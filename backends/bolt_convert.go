package backends

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// The first two formats had the buckets of repositories in the store's own, no archive of
// the log, and an index of what owners hold in the file: for each lock an
// entry o OWNER 00 RESOURCE of its repository. The first one also kept the memory of
// requests in the file, in three ranges of a repository: r REQUEST led to the token of
// the lock that it got, i TOKEN said how a lock had ended, and f TIME TOKEN when that
// is forgotten. Its log was in the last range.

const (
	rangeOldLog     = 'z'
	rangeOldRequest = 'r' // is no more
	rangeOldOwner   = 'o' // is no more
)

// isReadable reports whether this code can read a file's format, or convert it.
func isReadable(format string) bool {
	return format == formatVersion || format == firstFormat || format == secondFormat
}

// isOfOldFormat reports whether an entry is of a format before, and not of the
// present one.
func isOfOldFormat(format string, key, value []byte) bool {
	switch {
	case format == firstFormat:
		return key[0] == rangeOldOwner || isOfFirstFormat(key, value)
	case format == secondFormat:
		return key[0] == rangeOldOwner
	default:
		return false
	}
}

// isOfFirstFormat reports whether an entry is of the log or the memory of requests, as
// the first format kept it.
func isOfFirstFormat(key, value []byte) bool {
	switch key[0] {
	case rangeOldLog, rangeOldRequest, rangeForget:
		return true
	case rangeID:
		return bytes.HasPrefix(value, []byte{'{'})
	default:
		return false
	}
}

// convert makes the present format of one before it. What is remembered of
// ended locks stays remembered as long as it was to be. What does not make sense
// is left out: nothing but that memory depended on it.
func convert(tx *bbolt.Tx, format string) error {
	var err error
	// First: bbolt moves a bucket as it is in the file.
	for _, tag := range oldRepositories(tx) {
		if err := tx.MoveBucket(tag, tx.Bucket(rootBucket()), nil); err != nil {
			return fmt.Errorf("repository %q: %w", tag, err)
		}
	}
	eachRepository(tx, 0, func(r *repository) {
		err = errors.Join(err, r.convert(format))
	})
	return err
}

func (r *repository) convert(format string) error {
	kept := make(map[string][]byte)
	var removed [][]byte
	cursor := r.bucket.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		if len(key) == 0 || !isOfOldFormat(format, key, value) {
			continue
		}
		removed = append(removed, bytes.Clone(key))
		if format != firstFormat {
			continue
		}
		if key[0] == rangeOldLog {
			kept[string(rangeLog)+string(key[1:])] = bytes.Clone(value)
		}
		var e ending
		if _, token, ok := splitForgetKey(key); ok && decode(r.get(idKey(token)), &e) == nil && e.isSound(r.name) {
			kept[string(key)] = bytes.Clone(r.get(idKey(token)))
		}
	}
	r.bucket.FillPercent = fillPercent
	var errs []error
	for _, key := range removed {
		errs = append(errs, r.bucket.Delete(key))
	}
	for key, value := range kept {
		errs = append(errs, r.bucket.Put([]byte(key), value))
	}
	errs = append(errs, r.moveToArchive(r.lastSequence()+1))
	return errors.Join(errs...)
}
