package backends

import (
	"bytes"
	"context"
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// legacyRecords are stock's locks in a transaction. Changes need its batch.
type legacyRecords struct {
	bucket *bbolt.Bucket
	batch  *batch
}

// ChangeLegacyRecords calls change in a transaction that it may share with other
// callers, and returns after its commit. Change can run more than once; its error
// undoes what it did. What it writes counts as written by stock: the next look at many
// locks compares both.
func (b *BoltBackend) ChangeLegacyRecords(ctx context.Context, change func(enhanced.LegacyRecords) error) error {
	return b.committer.do(ctx, "change stock's locks", func(batch *batch) error {
		return change(legacyRecords{batch.tx.Bucket(legacyLocks()), batch})
	})
}

// ReadLegacyRecords calls read in a transaction that keeps nobody from writing.
func (b *BoltBackend) ReadLegacyRecords(ctx context.Context, read func(enhanced.LegacyRecords) error) error {
	return b.view(ctx, "read stock's locks", func(tx *bbolt.Tx) error {
		return read(legacyRecords{bucket: tx.Bucket(legacyLocks())})
	})
}

// UnknownBuckets returns the names of the buckets of the file that are neither the
// store's nor those that stock's boltdb makes.
func (b *BoltBackend) UnknownBuckets(ctx context.Context) (names []string, err error) {
	known := []string{legacyLocksBucket, legacyPullsBucket, legacyCommandsBucket, string(rootBucket()), string(spareBucket()), quarantineBucket}
	err = b.view(ctx, "look at the file's buckets", func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if !isTag(name) && !slices.Contains(known, string(name)) {
				names = append(names, string(name))
			}
			return nil
		})
	})
	return names, err
}

func (r legacyRecords) Get(key string) []byte { return r.bucket.Get([]byte(key)) }

func (r legacyRecords) Put(key string, value []byte) error {
	r.changed()
	return r.bucket.Put([]byte(key), value)
}

func (r legacyRecords) Delete(key string) error {
	r.changed()
	return r.bucket.Delete([]byte(key))
}

func (r legacyRecords) changed() {
	if r.batch != nil { // else bbolt refuses the change
		r.batch.dirty, r.batch.stock = true, true
	}
}

func (r legacyRecords) Each(prefix string, see func(key string, value []byte) error) error {
	cursor := r.bucket.Cursor()
	for key, value := cursor.Seek([]byte(prefix)); key != nil && bytes.HasPrefix(key, []byte(prefix)); key, value = cursor.Next() {
		if err := see(string(key), value); err != nil {
			return err
		}
	}
	return nil
}
