package backends

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// clock is the store's clock: the larger of the wall clock and the last time
// that was stored, so that it never runs backwards.
//
// A batch decides at one moment and is seen only after its commit. In between
// the clock stands still for readers: to one that saw a lease as ended that the
// batch has just extended, the lock would be gone and then be back.
type clock struct {
	mu       sync.Mutex // protects all below
	deciding int64      // the time of the batch under way, 0 for none
}

// begin returns the time at which a batch decides. The stored time is the last
// one in the file.
func (c *clock) begin(stored int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deciding = max(time.Now().UnixMicro(), stored)
	return c.deciding
}

// end lets the clock go on after a batch's commit or undoing.
func (c *clock) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deciding = 0
}

// read returns the time for a reader that opens its transaction afterwards.
func (c *clock) read() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().UnixMicro()
	if c.deciding != 0 {
		return min(now, c.deciding)
	}
	return now
}

func storedClock(tx *bbolt.Tx) int64 {
	return number(tx.Bucket(rootBucket()).Get(clockKey()))
}

// viewNow is view with the store's clock. The clock is read first: a batch that
// commits in between is seen, at a time that is not after its own.
func (b *BoltBackend) viewNow(ctx context.Context, operation string, fn func(tx *bbolt.Tx, now int64) error) error {
	now := b.clock.read()
	return b.view(ctx, operation, func(tx *bbolt.Tx) error {
		return fn(tx, max(now, storedClock(tx)))
	})
}
