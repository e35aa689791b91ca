package backends

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/deadline"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
)

const (
	// pipelines is how many batches for one server are on their way at a time:
	// while the server works on one, others are written or read.
	pipelines = 3
	// maxPipelined bounds what one caller's reply waits for. What is more than one call
	// of the common script has room for is better sent while that runs.
	maxPipelined = maxBatched
)

// pipeline sends the commands and decisions of all callers to one server. What
// comes is sent at once when nothing is on its way, by its caller where that can be, see
// leads; what comes meanwhile goes together, as in the bbolt backend's committer. Its
// goroutines exist only while there is something to send.
type pipeline struct {
	client  *redis.Client
	common  script
	apart   bool            // is set where one call can't be of several repositories
	calls   *sync.WaitGroup // counts the goroutines, too
	breaker atomic.Pointer[timeout.CircuitBreaker]
	timers  sync.Pool // of *time.Timer, stopped

	mu      sync.Mutex // protects all below
	waiting []*sending
	running int
}

// sending is a command or a decision on its way.
type sending struct {
	cmd *redis.Cmd // nil for a decision
	decision
	done chan struct{} // nil for a caller that leads
	// state is unsent at first; whoever changes it decides.
	state atomic.Int32
}

const (
	unsent int32 = iota
	sent
	withdrawn
)

// unsentError is the end of a context before its command was sent.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

// do sends and returns when there is a reply, or when ctx ends, whatever the
// client library does underneath. An error that is no unsentError says nothing
// about whether the server has got the command.
func (p *pipeline) do(ctx context.Context, s *sending) error {
	p.mu.Lock()
	if p.running == 0 && p.leads(ctx) {
		p.running++
		p.mu.Unlock()
		p.lead(ctx, s)
		return nil
	}
	s.done = make(chan struct{})
	p.waiting = append(p.waiting, s)
	if p.running < pipelines {
		p.running++
		p.calls.Add(1)
		go p.run()
	}
	p.mu.Unlock()
	if left, timed := deadline.Left(ctx); timed {
		return p.await(s, left)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return s.withdraw(ctx.Err())
	}
}

// await is the end of do for a context that ends after a time. One that many calls have
// is cheaper than the channel of each.
func (p *pipeline) await(s *sending, left time.Duration) error {
	timer, _ := p.timers.Get().(*time.Timer) //nolint:errcheck // nothing else is in it
	if timer == nil {
		timer = time.NewTimer(left)
	} else {
		timer.Reset(left)
	}
	defer p.timers.Put(timer)
	select {
	case <-s.done:
		timer.Stop()
		return nil
	case <-timer.C:
		return s.withdraw(context.DeadlineExceeded)
	}
}

// withdraw is what do answers when a context has ended.
func (s *sending) withdraw(ended error) error {
	if s.state.CompareAndSwap(unsent, withdrawn) {
		return &unsentError{ended}
	}
	return ended
}

// run sends until nothing waits. After a batch it gives way first: callers that were just
// answered, and come again, so go along. A single caller is better off if it ends.
func (p *pipeline) run() {
	defer p.calls.Done()
	for n := 0; ; {
		if n > 1 {
			runtime.Gosched()
		}
		p.mu.Lock()
		n = min(len(p.waiting), maxPipelined)
		if n == 0 {
			p.running--
			p.waiting = nil
			p.mu.Unlock()
			return
		}
		all := p.waiting[:n:n]
		p.waiting = p.waiting[n:]
		p.mu.Unlock()
		for _, s := range p.send(context.Background(), all) {
			close(s.done)
		}
	}
}

// leads reports whether a caller can send by itself, which spares it a goroutine and the
// waking of another processor: it must not have to return before the client does. So its
// context must end by its deadline alone, and the client go by that; and not long before
// the client gives up by itself, since a hurried caller is no failure of the server.
func (p *pipeline) leads(ctx context.Context) bool {
	left, timed := deadline.Left(ctx)
	if !timed {
		return ctx.Done() == nil
	}
	o := p.client.Options()
	if p.breaker.Load() != nil && left < o.PoolTimeout {
		return false // nor is a client without a connection to spare
	}
	// Below zero it tells the connections of no time at all.
	return o.ContextTimeoutEnabled && o.ReadTimeout >= 0 && o.WriteTimeout >= 0 && left >= o.ReadTimeout*9/10
}

// lead has a caller send what is its own. What has come meanwhile is left to a goroutine:
// a caller that is answered goes.
func (p *pipeline) lead(ctx context.Context, s *sending) {
	defer func() { // also where a hook of the client panics
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.waiting) == 0 {
			p.running--
			return
		}
		p.calls.Add(1) // while the caller is counted
		go p.run()
	}()
	p.send(ctx, []*sending{s})
}

// send sends what was not withdrawn, and returns whom to tell of it.
func (p *pipeline) send(ctx context.Context, all []*sending) []*sending {
	live := all[:0]
	commands, batches := make([]redis.Cmder, 0, 4), make([]*batched, 0, 4)
	for _, s := range all {
		switch {
		case !s.state.CompareAndSwap(unsent, sent):
			continue
		case s.cmd != nil:
			commands = append(commands, once{s.cmd})
		default:
			batches = s.join(batches, p.apart)
		}
		live = append(live, s)
	}
	for _, b := range batches {
		b.cmd = b.evaluation("evalsha", p.common.hash)
		commands = append(commands, onceTexts{b.cmd})
	}
	p.exchange(ctx, commands)
	var again []redis.Cmder
	for _, b := range batches {
		if hasErrorPrefix(b.cmd.Err(), "NOSCRIPT") {
			b.cmd = b.evaluation("eval", p.common.text)
			again = append(again, onceTexts{b.cmd})
		}
	}
	p.exchange(ctx, again)
	for _, b := range batches {
		b.tell()
	}
	return live
}

// process sends commands, each once. The client's own time-outs bound it, and the context
// of a caller that leads: others have many callers, and end with none of them.
func (p *pipeline) process(ctx context.Context, commands []redis.Cmder) {
	switch len(commands) {
	case 1:
		_ = p.client.Process(ctx, commands[0]) //nolint:errcheck // the command has it
	default:
		pipe := p.client.Pipeline()
		for _, cmd := range commands {
			_ = pipe.Process(ctx, cmd) //nolint:errcheck // it only queues
		}
		_, _ = pipe.Exec(ctx) //nolint:errcheck // each command has its own
	}
}

// nodes has the pipelines of all servers.
type nodes struct {
	mu  sync.Mutex // protects all
	all map[*redis.Client]*pipeline
}

// maxNodes bounds what is remembered of servers that left a cluster.
const maxNodes = 256

// pipeline returns the pipeline of a server.
func (b *RedisBackend) pipeline(client *redis.Client) *pipeline {
	b.nodes.mu.Lock()
	defer b.nodes.mu.Unlock()
	p := b.nodes.all[client]
	if p == nil {
		if len(b.nodes.all) >= maxNodes || b.nodes.all == nil {
			b.nodes.all = make(map[*redis.Client]*pipeline)
		}
		p = &pipeline{client: client, common: b.scripts.common, apart: b.isCluster(), calls: &b.calls}
		p.breaker.Store(newBreaker(b.config.Load()))
		b.nodes.all[client] = p
	}
	return p
}
