package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// Where stock Atlantis keeps its locks and those of commands.
const (
	stockLocksBucket    = "runLocks"
	stockCommandsBucket = "globalLocks"
)

// stockRecord is one lock of stock Atlantis, or why it can't be read.
type stockRecord struct {
	key  string
	size int
	lock models.ProjectLock
	err  error
}

// readStockFile reads the locks in a file of stock Atlantis, without changing
// it, and what is wrong with the file but leaves it readable.
func readStockFile(path string) (records []stockRecord, damages []backends.FileDamage, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, withHint(fmt.Errorf("there is no file %q", path), "Atlantis keeps atlantis.db in its --data-dir")
	case err != nil:
		return nil, nil, fmt.Errorf("can't read %q: %w", path, withoutPath(err))
	case !info.Mode().IsRegular():
		return nil, nil, withHint(fmt.Errorf("can't read %q: it is %s", path, describeMode(info.Mode())), "name the file itself, DIR/atlantis.db")
	case info.Size() == 0:
		// bbolt would make a store of it.
		return nil, nil, fmt.Errorf("%q is empty", path)
	}
	// All pages first: bbolt trusts them, and would follow a page that points
	// to itself until the memory is full.
	if damages, err = checkDataFile(path); err != nil {
		return nil, nil, err
	}
	err = readDataFile(path, func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(stockLocksBucket))
		if bucket == nil {
			return withHint(fmt.Errorf("%q has no locks of Atlantis: there is no bucket %s in it", path, stockLocksBucket), "Atlantis keeps atlantis.db in its --data-dir")
		}
		return bucket.ForEach(func(key, value []byte) error {
			records = append(records, decodeStockRecord(string(key), value))
			return nil
		})
	})
	return records, damages, err
}

func decodeStockRecord(key string, value []byte) stockRecord {
	record := stockRecord{key: key, size: len(value)}
	if value == nil {
		record.err = errors.New("it is a bucket, not a record")
		return record
	}
	lock, err := backends.DecodeStockLock(key, string(value))
	if err != nil {
		record.err = err
		return record
	}
	record.lock = *lock
	return record
}
