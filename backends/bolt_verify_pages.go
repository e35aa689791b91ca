package backends

import (
	"fmt"
	"hash/crc32"
	"runtime/debug"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// maxPageErrors is how many damages of a file are listed.
const maxPageErrors = 20

// verifyPages checks the file's own structure: all of it can be read, and
// bbolt's check finds nothing.
func verifyPages(db *bbolt.DB) (violations []enhanced.Violation, err error) {
	report := func(err error) {
		violations = append(violations, enhanced.Violation{
			Rule: enhanced.RuleFile, Record: db.Path(),
			Detail: err.Error() + "; put back a copy of the file that was made while nothing had it open",
		})
	}
	var damage error
	err = db.View(func(tx *bbolt.Tx) error {
		damage = walkPages(tx)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if damage != nil {
		// bbolt's check runs in a goroutine of its own, where it would end the
		// process.
		report(damage)
		return violations, nil
	}
	// bbolt's check reads what writers change, so it needs to be the writer.
	tx, err := db.Begin(!db.IsReadOnly())
	if err != nil {
		return nil, err
	}
	found := 0
	for err := range tx.Check() {
		if found++; found <= maxPageErrors {
			report(err)
		}
	}
	if found > maxPageErrors {
		report(fmt.Errorf("%d more of this kind", found-maxPageErrors))
	}
	return violations, tx.Rollback()
}

// walkPages reads all that is in the file. On a damaged page bbolt panics, or
// reads mapped memory beyond the end of the file.
func walkPages(tx *bbolt.Tx) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not all of its pages can be read (%v)", r)
		}
	}()
	return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error { return walkBucket(bucket) })
}

func walkBucket(bucket *bbolt.Bucket) error {
	return bucket.ForEach(func(key, value []byte) error {
		if value != nil {
			crc32.ChecksumIEEE(value) // reads it to its end
			return nil
		}
		if nested := bucket.Bucket(key); nested != nil {
			return walkBucket(nested)
		}
		return nil
	})
}
