package backends

import (
	"errors"
	"fmt"
	"runtime/debug"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// commit runs the steps that are left of the last transaction, and those that wait,
// in one transaction and answers them. When one fails, the transaction is undone,
// that one is answered, and the others are returned to be run again.
func (c *committer) commit(left []*pendingStep) (again []*pendingStep) {
	var tx *bbolt.Tx
	steps, ended := left, false
	defer func() {
		if !ended {
			c.breakDown(tx, steps, recover())
		}
	}()
	again, ended = c.commitSteps(&tx, &steps), true
	return again
}

// breakDown ends all commits after a panic of bbolt, or after a step that has ended its
// goroutine. What bbolt has in memory can't be relied on then, and a caller that
// recovers, as HTTP servers do, must neither keep the file's write lock nor go on: the
// steps of the transaction are answered that their outcome is unknown, and all other
// calls, from now on, that nothing can be done until the file is opened again.
func (c *committer) breakDown(tx *bbolt.Tx, steps []*pendingStep, cause any) {
	err := fmt.Errorf("a commit has failed with %q; nothing more is written until the file is opened again", fmt.Sprint(cause))
	if cause == nil {
		err = errors.New("a step has ended its goroutine; nothing more is written until the file is opened again")
	}
	c.logger.Err("%v\n%s", err, debug.Stack())
	err = errors.Join(err, abandon(tx))
	c.mu.Lock()
	c.broken = err
	waiting := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	c.ended()
	reply(waiting, nil, err)
	reply(steps, nil, errors.Join(enhanced.ErrOutcomeUnknown, err))
}

// abandon gives the file's write lock back, as far as bbolt still can.
func abandon(tx *bbolt.Tx) (err error) {
	if tx == nil {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("rolling back: %v", r)
		}
	}()
	// It may have ended before what came after it failed.
	_ = tx.Rollback()
	return nil
}
