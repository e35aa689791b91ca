package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// answerIn calls ask with a context that ends after limit. The client library
// tries again for longer than a person waits, says nothing meanwhile, and in the
// end often only that the time was over.
func (f *redisServers) answerIn(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := ask(limited)
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	waited := time.Since(start).Round(100 * time.Millisecond)
	if why := f.dials.failure(); why != nil {
		return fmt.Errorf("no answer in %v: %w", waited, why)
	}
	return fmt.Errorf("no answer in %v", waited)
}

// firstAnswer bounds how long a server may take to answer at all; how long all of
// its answers take depends on how many there are. The library pauses for up to
// half a second between its attempts: without a second or two for some of them, no
// error that a server answers would be told.
func (f *redisServers) firstAnswer(ctx context.Context, ask func(context.Context) error) error {
	return f.answerIn(ctx, max(3*f.Timeout, 2*time.Second), ask)
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// dials remembers why the first dial failed since one did not: the error of a call
// whose context has ended does not say it.
type dials struct {
	mu  sync.Mutex // protects err
	err error
}

// failure is nil if the last dial did not fail.
func (d *dials) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// remember returns dial with its outcome remembered. Later failures can be those
// of dials that were given up.
func (d *dials) remember(dial dialer) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.err == nil || err == nil {
			d.err = err
		}
		return conn, err
	}
}
