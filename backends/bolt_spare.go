package backends

import (
	"time"

	"go.etcd.io/bbolt"
)

// A page that the file has never had is new to the file system, too: it has to find a
// place for it and to write that down, and the sync of such a commit takes far longer.
// With few free pages that is one lock in twelve, since each change is logged.
// So pages are got in advance, many at a time, while nobody waits: a large value is
// written and removed again. What it took is free then, and has its place on the disk.

const (
	// fewPages is how many free pages are too few. A lock takes three of them in a small
	// file, eight in a large one, and they are free again after the next commit.
	fewPages = 16
	// minSpare and maxSpare bound how many are got at a time, in between half of the file:
	// with pages of 4 KB, from 256 KB to 1 MB.
	minSpare, maxSpare = 64, 256
	// spareRest is how long none are got after that has failed. When the disk is full, each
	// failure has bbolt look through the whole file.
	spareRest = 10 * time.Minute
)

// lacksPages reports whether it is time to get pages. While somebody reads it is not: what
// is removed is free only when nobody sees it any more, and where the file gets longer than
// its map in memory, all who write wait until nobody reads.
func (c *committer) lacksPages() bool {
	stats := c.db.Stats()
	if stats.FreePageN+stats.PendingPageN >= fewPages || stats.OpenTxN > 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed.err == nil && !time.Now().Before(c.spareAfter)
}

// getPages does it, in transactions without a caller's step: on a full disk nobody's fails
// that would have fitted by itself.
func (c *committer) getPages() {
	for _, step := range []func(*batch) error{putSpare, removeSpare} {
		pending := &pendingStep{step: step, done: make(chan error, 1), alone: true}
		c.commit([]*pendingStep{pending})
		if err := <-pending.done; err != nil {
			c.logger.Debug("no pages of the file in advance: %v", err)
			c.mu.Lock()
			c.spareAfter = time.Now().Add(spareRest)
			c.mu.Unlock()
			return
		}
	}
}

// putSpare writes the large value. It has a bucket of its own: beside other keys, these
// would be written with it. One may be left over where it could not be removed.
func putSpare(b *batch) error {
	if b.tx.Bucket(spareBucket()) != nil {
		return nil
	}
	b.dirty, b.spare = true, true
	bucket, err := b.tx.CreateBucket(spareBucket())
	if err != nil {
		return err
	}
	pageSize := b.tx.DB().Info().PageSize
	pages := min(max(int(b.tx.Size())/pageSize/2, minSpare), maxSpare)
	return bucket.Put(present(), make([]byte, pages*pageSize))
}

func removeSpare(b *batch) error {
	removed, err := deleteSpare(b.tx)
	b.dirty, b.spare = removed, removed
	return err
}

// deleteSpare removes the large value, if it is there.
func deleteSpare(tx *bbolt.Tx) (removed bool, err error) {
	if tx.Bucket(spareBucket()) == nil {
		return false, nil
	}
	return true, tx.DeleteBucket(spareBucket())
}
