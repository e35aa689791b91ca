package backends

import (
	"errors"
	"fmt"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// ErrNoLocks says that a file or a server has nothing of Atlantis' in it.
var ErrNoLocks = errors.New("it has no locks of Atlantis")

// ReadBoltInventory reads a file that no backend has open; it may be open
// read-only. One of stock Atlantis is as good. The error is [ErrNoLocks] for a
// file that is neither.
func ReadBoltInventory(db *bbolt.DB) (*Inventory, error) {
	found := newInventory()
	err := db.View(func(tx *bbolt.Tx) error {
		root, legacy := tx.Bucket(rootBucket()), tx.Bucket(legacyLocks())
		if legacy == nil {
			return ErrNoLocks
		}
		claimed := make(map[string]bool)
		if root == nil {
			found.Stock = true
		} else {
			if version := string(root.Get(formatKey())); !isReadable(version) {
				return formatError(version)
			}
			found.addBolt(tx, claimed)
		}
		var values []stockValue
		err := legacy.ForEach(func(key, value []byte) error {
			if !claimed[string(key)] {
				var err error
				if value == nil {
					err = errors.New("it is a bucket")
				}
				values = append(values, readStockValue(stockPrefix+string(key), string(value), err))
			}
			return nil
		})
		found.addStock(values, legacyLocksBucket+"/")
		return errors.Join(
			err,
			eachValue(tx, legacyPullsBucket, found.addStatus),
			eachValue(tx, legacyCommandsBucket, found.addCommandLock),
		)
	})
	if err != nil {
		return nil, err
	}
	return found.finish(), nil
}

// eachValue calls add for the values of a bucket that may be missing.
func eachValue(tx *bbolt.Tx, bucket string, add func(record, key, value string)) error {
	values := tx.Bucket([]byte(bucket))
	if values == nil {
		return nil
	}
	return values.ForEach(func(key, value []byte) error {
		add(bucket+"/"+string(key), string(key), string(value))
		return nil
	})
}

// addBolt adds our own records, and claims the keys of their copies.
func (i *Inventory) addBolt(tx *bbolt.Tx, claimed map[string]bool) {
	state := readStoreState(tx)
	i.counter = state.token
	now := max(time.Now().UnixMicro(), state.clock)
	eachRepository(tx, now, func(r *repository) {
		if enhanced.RepositoryTag(r.name) != r.tag {
			i.problem(fmt.Sprintf("%s/%s", rootBucket(), r.tag), "the name of the repository can't be read; its locks are not carried")
			return
		}
		i.Tokens[r.name] = state.token
		r.allWaiters(func(*waiter) { i.Waiters++ })
		cursor := r.bucket.Cursor()
		for key, _ := cursor.Seek([]byte{rangeReserved}); len(key) > 0 && key[0] == rangeReserved; key, _ = cursor.Next() {
			i.Reservations++
		}
		r.locks(func(resource enhanced.ResourceIdentifier, data []byte, err error) {
			if err != nil {
				i.problem(recordName(r.tag, "?"), "%v", err)
				return
			}
			f := r.entry(resource, data).judge()
			// What stock has beside a record that can't be read may be its copy, or may
			// not: the owner is unknown.
			if f.status == unreadable || f.record.Mirror != "" && f.status != releasedByStock {
				claimed[resource.LegacyKey()] = true
			}
			switch f.status {
			case held:
				i.add(f.lock(), f.record.Request, f.record.Expires, now)
			case unreadable:
				i.problem(f.name, unreadableDetail)
			default:
			}
		})
	})
}
