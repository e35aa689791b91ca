package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
)

// What keeps callers from waiting for servers that are down or slow: a circuit
// breaker where a server is talked to, and time-outs where scripts are called.
// Nothing is repeated here: the manager does that.

// newBreaker returns a server's circuit breaker, nil for none.
func newBreaker(config *enhanced.EnhancedConfig) *timeout.CircuitBreaker {
	if !config.EnableCircuitBreaker {
		return nil
	}
	breaker, err := timeout.NewCircuitBreaker(timeout.BreakerOptions{
		FailureThreshold: config.CircuitFailureThreshold, OpenTimeout: config.CircuitOpenTimeout, Judge: judge,
	})
	if err != nil {
		return nil // the configuration is invalid, and every call says so
	}
	return breaker
}

// newAdaptive returns the time-outs of the scripts, nil for none.
func newAdaptive(config *enhanced.EnhancedConfig) *timeout.AdaptiveTimeoutManager {
	if !config.EnableAdaptiveTimeout {
		return nil
	}
	adaptive, err := timeout.NewAdaptiveTimeoutManager(timeout.AdaptiveOptions{
		Min: config.AdaptiveTimeoutMin, Max: config.AdaptiveTimeoutMax,
	})
	if err != nil {
		return nil // the configuration is invalid, and every call says so
	}
	return adaptive
}

// judge says what an exchange with a server says about the server. Whatever it
// answers, it is there; that replicas did not confirm, or that this client has
// no connection to spare, is no failure of it.
func judge(err error) timeout.Verdict {
	switch {
	case errors.Is(err, errHurried):
		return timeout.VerdictNone
	case !isNetwork(err):
		return timeout.VerdictAlive
	case errors.Is(err, enhanced.ErrOutcomeUnknown), errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrClosed):
		return timeout.VerdictNone
	default:
		return timeout.VerdictFailed
	}
}

// guarded calls fn, which talks to the server, unless its circuit is open. The
// answer is then an unsentError. fn is not bound to one caller's context, so
// that a hurried caller is no failure of the server.
func (p *pipeline) guarded(fn func() error) error {
	breaker := p.breaker.Load()
	if breaker == nil {
		return fn()
	}
	asked := false
	err := breaker.Do(func() error {
		asked = true
		return fn()
	})
	if !asked {
		return &unsentError{err}
	}
	return err
}

// errHurried stands for an error of a caller that did not wait for the server.
var errHurried = errors.New("the caller did not wait")

// guardedScan is guarded for what is bound to a caller's context.
func (b *RedisBackend) guardedScan(ctx context.Context, node redis.Cmdable, scan func() error) error {
	client, ok := node.(*redis.Client)
	if !ok {
		return scan()
	}
	var answer error
	err := b.pipeline(client).guarded(func() error {
		if answer = scan(); answer != nil && ended(ctx) != nil {
			return errHurried
		}
		return answer
	})
	if errors.Is(err, errHurried) {
		return answer
	}
	return err
}

// exchange sends commands, and tells them when they were not sent.
func (p *pipeline) exchange(ctx context.Context, commands []redis.Cmder) {
	if len(commands) == 0 {
		return
	}
	if p.breaker.Load() == nil {
		p.process(ctx, commands)
		return
	}
	err := p.guarded(func() error {
		p.process(ctx, commands)
		for _, cmd := range commands {
			if !isNetwork(cmd.Err()) {
				return nil
			}
		}
		return commands[0].Err()
	})
	var never *unsentError
	if errors.As(err, &never) {
		for _, cmd := range commands {
			cmd.SetErr(err)
		}
	}
}

// reconfigure gives all servers' pipelines fresh circuits, and the scripts fresh
// time-outs, where the configuration of them has changed.
func (b *RedisBackend) reconfigure(before, after *enhanced.EnhancedConfig) {
	type circuit struct {
		on        bool
		threshold int
		open      time.Duration
	}
	circuitOf := func(c *enhanced.EnhancedConfig) circuit {
		return circuit{c.EnableCircuitBreaker, c.CircuitFailureThreshold, c.CircuitOpenTimeout}
	}
	if circuitOf(before) != circuitOf(after) {
		b.nodes.mu.Lock()
		for _, p := range b.nodes.all {
			p.breaker.Store(newBreaker(after))
		}
		b.nodes.mu.Unlock()
	}
	type adaptive struct {
		on         bool
		least, max time.Duration
	}
	adaptiveOf := func(c *enhanced.EnhancedConfig) adaptive {
		return adaptive{c.EnableAdaptiveTimeout, c.AdaptiveTimeoutMin, c.AdaptiveTimeoutMax}
	}
	if adaptiveOf(before) != adaptiveOf(after) {
		b.adaptive.Store(newAdaptive(after))
	}
}

// openCircuits counts the servers that are not asked.
func (b *RedisBackend) openCircuits() (n int) {
	b.nodes.mu.Lock()
	defer b.nodes.mu.Unlock()
	for _, p := range b.nodes.all {
		if breaker := p.breaker.Load(); breaker != nil && breaker.State() != timeout.BreakerClosed {
			n++
		}
	}
	return n
}

// bound is the adaptive time-out of one call of a script. Its zero value is none.
type bound struct {
	adaptive *timeout.AdaptiveTimeoutManager
	script   string
	cancel   context.CancelFunc
	limit    time.Duration
	start    time.Time
}

func (b *RedisBackend) bound(ctx context.Context, script string) (context.Context, bound) {
	adaptive := b.adaptive.Load()
	if adaptive == nil {
		return ctx, bound{}
	}
	l := bound{adaptive: adaptive, script: script, limit: adaptive.Timeout(script), start: time.Now()}
	ctx, l.cancel = context.WithTimeout(ctx, l.limit)
	return ctx, l
}

// end takes in how long the call took, and says so where that was too long.
func (l bound) end(err error) error {
	if l.adaptive == nil {
		return err
	}
	defer l.cancel()
	took := time.Since(l.start)
	// What ended before its limit ended with its caller's context.
	late := err != nil && errors.Is(err, context.DeadlineExceeded) && took >= l.limit
	if late || !isNetwork(err) {
		l.adaptive.Observe(l.script, took)
	}
	if late {
		return fmt.Errorf("no answer within %v, which is long for the script %s: %w", l.limit, l.script, err)
	}
	return err
}
