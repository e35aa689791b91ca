// Package deadline has contexts for calls that are bounded by a time alone: nobody
// cancels them while the call goes on. Who knows that of a context can wait for
// something that ends by then, without listening for the context's end meanwhile.
package deadline

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// Context ends at its deadline, and not before [Context.End], which its maker calls
// when the call that it is for has returned. Unlike [context.WithTimeout] it takes a
// timer only when somebody listens for its end.
type Context struct {
	values context.Context
	at     time.Time

	mu     sync.Mutex      // protects all below
	ended  error           // why it has ended by End, nil if it has not
	heard  context.Context // ends for those who listen; nil before anybody does
	cancel context.CancelFunc
}

var _ context.Context = (*Context)(nil)

// In returns a context that ends after d.
func In(d time.Duration) *Context {
	return &Context{values: context.Background(), at: time.Now().Add(d)}
}

// Left returns how long ctx goes on, and true if it is a [Context].
func Left(ctx context.Context) (time.Duration, bool) {
	c, is := ctx.(*Context)
	if !is {
		return 0, false
	}
	return time.Until(c.at), true
}

// WithValue is [context.WithValue], which makes a [Context] of one.
func WithValue(ctx context.Context, key, value any) context.Context {
	with := context.WithValue(ctx, key, value)
	if c, is := ctx.(*Context); is {
		return &Context{values: with, at: c.at}
	}
	return with
}

// End ends the context for those who listen still.
func (c *Context) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = cmp.Or(c.err(), context.Canceled)
	}
	if c.heard != nil {
		c.cancel()
	}
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) { return c.at, true }

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard == nil {
		if errors.Is(c.ended, context.Canceled) { // and stays so after the deadline
			c.heard, c.cancel = context.WithCancel(c.values)
		} else {
			c.heard, c.cancel = context.WithDeadline(c.values, c.at)
		}
		if c.ended != nil {
			c.cancel()
		}
	}
	return c.heard.Done()
}

// Err implements [context.Context].
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err()
}

// err is Err for who holds c.mu.
func (c *Context) err() error {
	late := !time.Now().Before(c.at)
	if c.heard != nil {
		if late { // who waited until then for something else need not be told otherwise
			<-c.heard.Done()
		}
		return c.heard.Err()
	}
	if err := cmp.Or(c.ended, c.values.Err()); err != nil || !late {
		return err
	}
	return context.DeadlineExceeded
}

// Value implements [context.Context]. Package context finds here what it needs to end
// contexts that are derived from this one without a goroutine for each.
func (c *Context) Value(key any) any {
	c.mu.Lock()
	from := c.values
	if c.heard != nil {
		from = c.heard
	}
	c.mu.Unlock()
	return from.Value(key)
}
