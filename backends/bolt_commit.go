package backends

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/logging"
	"go.etcd.io/bbolt"
)

// maxBatch bounds the steps of one transaction.
const maxBatch = 256

// committer runs steps of many callers in few transactions: while one is
// written to disk, the next steps gather. Unlike bbolt's Batch it never waits
// for company, so a single caller pays nothing. Who it is that runs them: see
// [committer.loop] and [committer.lead].
type committer struct {
	db     *bbolt.DB
	logger logging.SimpleLogging
	// run executes one step inside a transaction.
	run func(b *batch, step func(*batch) error) error
	// committed is called after each successful commit, in commit order.
	committed func(b *batch)
	// undone is called after a transaction that was undone, or may be.
	undone func(b *batch)
	// ended is called after each transaction, however it ended, before the
	// callers are answered.
	ended func()

	// telling is held while a transaction ends and those are told that it answers:
	// who holds it for reading sees nothing of a commit that is still to be told.
	telling sync.RWMutex

	wake chan struct{} // tells a resting loop that something has changed

	mu      sync.Mutex // protects all below
	waiting []*pendingStep
	closed  bool
	failed  failedWrite // the latest write, if it failed
	broken  error       // why nothing is committed any more
	// leading is set while somebody else than a loop commits, looping while there is a
	// loop, and resting while that has nothing to do.
	leading, looping, resting bool
	idle                      sync.Cond // signals that one of the first two became false
	// patience runs with a loop. asked is set when that got a step since it began, and
	// weary when it got none.
	patience     *time.Timer
	asked, weary bool
	spareAfter   time.Time // when pages may be got in advance again

	// touched and remembered are those of a batch, for the next one to use. Who commits
	// uses them.
	touched, remembered map[string]struct{}
}

// failedWrite is why a write did not reach the disk; its zero value says that
// it did.
type failedWrite struct {
	err error
	// size is how much the transaction would have written, in bytes.
	size int
}

type pendingStep struct {
	step func(*batch) error
	done chan error // buffered: the committer never waits for a caller
	// alone is set for a step that no other one shares a transaction with.
	alone bool
}

// batch is one write transaction and what is to happen after its commit.
type batch struct {
	tx    *bbolt.Tx
	txid  int // bbolt forgets it at the commit
	dirty bool
	// stock is set when it has written what stock would write.
	stock bool
	// probe is the size of a write whose only purpose is to see whether it
	// reaches the disk.
	probe int
	// spare is set when all that it writes are pages for later.
	spare bool
	after []func()
	// unserved are resources that are to be settled at the end of the step.
	unserved []enhanced.ResourceIdentifier
	// touched are the repositories whose log grew.
	touched map[string]struct{}
	// remembered are the repositories whose memory changed.
	remembered map[string]struct{}
	// now is the store's clock and token the last fencing token.
	now, token int64
}

func newCommitter(db *bbolt.DB, logger logging.SimpleLogging) *committer {
	c := &committer{
		db: db, logger: logger, wake: make(chan struct{}, 1),
		touched: make(map[string]struct{}), remembered: make(map[string]struct{}),
	}
	c.idle.L = &c.mu
	return c
}

// decide is committer.do for a step with a result. A caller that stopped
// waiting gets the zero value: the step may still be writing its own.
func decide[T any](ctx context.Context, c *committer, operation string, step func(*batch) (T, error)) (T, error) {
	var result, none T
	err := c.do(ctx, operation, func(b *batch) (err error) {
		result, err = step(b)
		return err
	})
	if err != nil {
		return none, err
	}
	return result, nil
}

// do runs step in a transaction and returns after its commit. A step returns a
// decision, a [enhanced.LockError], and what it wrote stays; any other error,
// or a panic, undoes it. A step can run more than once and must not keep
// anything from a run before.
//
// When ctx ends first, do returns at once: with outcome unknown if the step is
// already in a transaction, without any effect otherwise.
func (c *committer) do(ctx context.Context, operation string, step func(*batch) error) error {
	pending := &pendingStep{step: step, done: make(chan error, 1)}
	c.mu.Lock()
	if err := c.unusable(); err != nil {
		c.mu.Unlock()
		return enhanced.NewBackendError(operation, err)
	}
	if err := ctx.Err(); err != nil {
		c.mu.Unlock()
		return contextError(operation, err)
	}
	c.waiting = append(c.waiting, pending)
	lead := c.assign(ctx.Done() == nil)
	c.mu.Unlock()
	if lead {
		c.lead()
	}

	select {
	case err := <-pending.done:
		return stepError(operation, err)
	case <-ctx.Done():
		if c.withdraw(pending) {
			return contextError(operation, ctx.Err())
		}
		return contextError(operation, errors.Join(enhanced.ErrOutcomeUnknown, ctx.Err()))
	}
}

func contextError(operation string, err error) error {
	return &enhanced.LockError{Code: enhanced.ErrCodeTimeout, Message: operation + ": the call's context has ended", Err: err}
}

// stepError leaves decisions as they are and makes anything else a BACKEND_ERROR.
func stepError(operation string, err error) error {
	if err == nil || isDecision(err) {
		return err
	}
	return enhanced.NewBackendError(operation, err)
}

func isDecision(err error) bool {
	var lockErr *enhanced.LockError
	return errors.As(err, &lockErr) && lockErr.Code != enhanced.ErrCodeBackendError
}

func (c *committer) withdraw(pending *pendingStep) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range c.waiting {
		if p == pending {
			c.waiting = append(c.waiting[:i:i], c.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take returns the steps of a transaction: those that are left of the last one,
// and as many that wait as it has room for.
func (c *committer) take(left []*pendingStep) []*pendingStep {
	if len(left) > 0 && left[0].alone {
		return left
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), maxBatch-len(left))
	steps := append(left, c.waiting[:n]...)
	c.waiting = c.waiting[n:]
	if len(c.waiting) == 0 {
		c.waiting = nil
	}
	return steps
}

// commitSteps is commit, and says early what transaction it has begun and which steps it
// has taken.
func (c *committer) commitSteps(begun **bbolt.Tx, taken *[]*pendingStep) []*pendingStep {
	tx, err := c.db.Begin(true)
	// Not before: what comes while stock, or another backend, writes to the file goes
	// along, too.
	steps := c.take(*taken)
	*begun, *taken = tx, steps
	if err != nil {
		c.note(failedWrite{err: err})
		reply(steps, nil, err)
		return nil
	}
	clear(c.touched)
	clear(c.remembered)
	b := &batch{tx: tx, txid: tx.ID(), touched: c.touched, remembered: c.remembered}
	decisions := make([]error, len(steps))
	for i, p := range steps {
		err := c.runStep(b, p.step)
		if err != nil && !isDecision(err) {
			rollbackErr := tx.Rollback()
			c.undone(b)
			c.ended()
			p.done <- errors.Join(err, rollbackErr)
			return append(steps[:i:i], steps[i+1:]...)
		}
		decisions[i] = err
	}
	err = c.finish(b)
	c.ended()
	reply(steps, decisions, err)
	return nil
}

// finish ends the batch's transaction and tells what came of it.
func (c *committer) finish(b *batch) (err error) {
	c.telling.Lock()
	defer c.telling.Unlock()
	if b.dirty {
		err = c.write(b)
	} else {
		// What has nothing to write says nothing of the disk.
		err = b.tx.Rollback()
	}
	switch {
	case err != nil:
		c.undone(b)
	case b.dirty:
		c.committed(b)
	}
	return err
}

// write commits the batch and notes how that went.
func (c *committer) write(b *batch) error {
	err := b.tx.Commit()
	if err == nil {
		c.note(failedWrite{})
		return nil
	}
	stats := b.tx.Stats()
	size := int(stats.GetPageAlloc())
	if b.probe > 0 {
		size = b.probe // so that the next one is no larger
	}
	// Most failed commits have rolled back already, which is no error here.
	_ = b.tx.Rollback()
	// The failed write may have reached the disk.
	err = errors.Join(enhanced.ErrOutcomeUnknown, err)
	if !b.spare { // what can be done without says nothing of what can't
		c.note(failedWrite{err, size})
	}
	return err
}

func (c *committer) runStep(b *batch, step func(*batch) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.logger.Err("a step panicked: %v\n%s", r, debug.Stack())
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return c.run(b, step)
}

// reply tells the callers of the steps what became of them.
func reply(steps []*pendingStep, decisions []error, err error) {
	for i, p := range steps {
		if err != nil {
			p.done <- err
			continue
		}
		p.done <- decisions[i]
	}
}

func (c *committer) note(f failedWrite) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = f
}

// lastFailure returns why the latest write failed.
func (c *committer) lastFailure() failedWrite {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// close refuses further steps and waits for those under way.
func (c *committer) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.wakeUp()
	for c.leading || c.looping {
		c.idle.Wait()
	}
}

// state returns why nothing can be done any more, nil where it can.
func (c *committer) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unusable()
}

// unusable is state for who holds c.mu.
func (c *committer) unusable() error {
	if c.closed {
		return enhanced.ErrClosed
	}
	return c.broken
}
