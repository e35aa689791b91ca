package backends

import (
	"bytes"
	"errors"

	"go.etcd.io/bbolt"
)

// The format before this one kept the memory of requests in the file, in three
// ranges of a repository: r REQUEST led to the token of the lock that it got,
// i TOKEN said how a lock had ended, and f TIME TOKEN when that is forgotten. Its
// log was in the last range.

const (
	rangeOldLog     = 'z'
	rangeOldRequest = 'r' // is no more
)

// isOfOldFormat reports whether an entry is of the log or the memory of requests, as
// the format before this one kept it.
func isOfOldFormat(key, value []byte) bool {
	switch key[0] {
	case rangeOldLog, rangeOldRequest, rangeForget:
		return true
	case rangeID:
		return bytes.HasPrefix(value, []byte{'{'})
	default:
		return false
	}
}

// convert makes the present format of the one before it. What is remembered of
// ended locks stays remembered as long as it was to be. What does not make sense
// is left out: nothing but that memory depended on it.
func convert(tx *bbolt.Tx) error {
	var err error
	eachRepository(tx, 0, func(r *repository) {
		err = errors.Join(err, r.convert())
	})
	return err
}

func (r *repository) convert() error {
	kept := make(map[string][]byte)
	var removed [][]byte
	cursor := r.bucket.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		if len(key) == 0 || !isOfOldFormat(key, value) {
			continue
		}
		removed = append(removed, bytes.Clone(key))
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
	return errors.Join(errs...)
}
