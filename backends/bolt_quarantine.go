package backends

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// quarantineBucket keeps what repairs took out of a store because it can't be
// read: byte for byte, under the place where it was. Nothing reads it but people.
const quarantineBucket = "enhanced-quarantine"

const quarantineText = "move it to the bucket " + quarantineBucket

// maxQuarantineKey leaves room for the suffix that tells two records of one
// place apart.
const maxQuarantineKey = bbolt.MaxKeySize - 32

// where names the place of one of the repository's entries.
func (r *repository) where(key []byte) []byte {
	return fmt.Appendf(nil, "%s/%s/%s", rootBucket(), r.tag, key)
}

// quarantines is a repair that keeps what is at a place in quarantine. There is
// none where the place has too long a name.
func (p *problem) quarantines(where []byte, more string, fix repairFunc) *problem {
	if len(where) > maxQuarantineKey {
		return p
	}
	return p.repairs(quarantineText+more, fix)
}

// quarantinesEntry is a repair that moves an entry to quarantine.
func (p *problem) quarantinesEntry(c *inspection, key []byte) *problem {
	key = bytes.Clone(key)
	where := c.where(key)
	return p.quarantines(where, "", func(s *repositoryStep, _ change) error {
		return errors.Join(s.quarantine(where, s.get(key)), s.delete(key))
	})
}

// quarantine keeps a value under the place where it was. What was kept of that
// place before stays.
func (s *repositoryStep) quarantine(where, value []byte) error {
	bucket, err := s.tx.CreateBucketIfNotExists([]byte(quarantineBucket))
	if err != nil {
		return fmt.Errorf("bucket %q: %w", quarantineBucket, err)
	}
	s.batch.dirty = true
	key := where
	for n := 2; hasKey(bucket, key); n++ {
		key = fmt.Appendf(nil, "%s (%d)", where, n)
	}
	return bucket.Put(key, bytes.Clone(value))
}

func hasKey(bucket *bbolt.Bucket, key []byte) bool {
	found, _ := bucket.Cursor().Seek(key)
	return bytes.Equal(found, key)
}
