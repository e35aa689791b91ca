package backends

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
)

const (
	// pipelines is how many batches for one server are on their way at a time:
	// while the server works on one, the other is written or read.
	pipelines = 2
	// maxPipelined bounds what one caller's reply waits for.
	maxPipelined = 128
)

// pipeline sends the commands and decisions of all callers to one server. What
// comes is sent at once when nothing is on its way; what comes meanwhile goes
// together, as in the bbolt backend's committer. Its goroutines exist only while
// there is something to send.
type pipeline struct {
	client  *redis.Client
	common  script
	apart   bool            // is set where one call can't be of several repositories
	calls   *sync.WaitGroup // counts the goroutines, too
	breaker atomic.Pointer[timeout.CircuitBreaker]

	mu      sync.Mutex // protects all below
	waiting []*sending
	running int
}

// sending is a command or a decision on its way.
type sending struct {
	cmd *redis.Cmd // nil for a decision
	decision
	done chan struct{}
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
	s.done = make(chan struct{})
	p.mu.Lock()
	p.waiting = append(p.waiting, s)
	if p.running < pipelines {
		p.running++
		p.calls.Add(1)
		go p.run()
	}
	p.mu.Unlock()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		if s.state.CompareAndSwap(unsent, withdrawn) {
			return &unsentError{ctx.Err()}
		}
		return ctx.Err()
	}
}

// run sends until nothing waits.
func (p *pipeline) run() {
	defer p.calls.Done()
	for {
		p.mu.Lock()
		n := min(len(p.waiting), maxPipelined)
		if n == 0 {
			p.running--
			p.waiting = nil
			p.mu.Unlock()
			return
		}
		all := p.waiting[:n:n]
		p.waiting = p.waiting[n:]
		p.mu.Unlock()
		p.send(all)
	}
}

// send sends what was not withdrawn and tells the callers.
func (p *pipeline) send(all []*sending) {
	live := all[:0]
	var commands []*redis.Cmd
	var batches []*batched
	for _, s := range all {
		switch {
		case !s.state.CompareAndSwap(unsent, sent):
			continue
		case s.cmd != nil:
			commands = append(commands, s.cmd)
		default:
			batches = s.join(batches, p.apart)
		}
		live = append(live, s)
	}
	for _, b := range batches {
		b.cmd = b.evaluation("evalsha", p.common.hash)
		commands = append(commands, b.cmd)
	}
	p.exchange(commands)
	var again []*redis.Cmd
	for _, b := range batches {
		if hasErrorPrefix(b.cmd.Err(), "NOSCRIPT") {
			b.cmd = b.evaluation("eval", p.common.text)
			again = append(again, b.cmd)
		}
	}
	p.exchange(again)
	for _, b := range batches {
		b.tell()
	}
	for _, s := range live {
		close(s.done)
	}
}

// process sends commands, each once. The client's own time-outs bound it: they
// have many callers, and end with none of them.
func (p *pipeline) process(commands []*redis.Cmd) {
	ctx := context.Background()
	switch len(commands) {
	case 1:
		_ = p.client.Process(ctx, once{commands[0]}) //nolint:errcheck // the command has it
	default:
		pipe := p.client.Pipeline()
		for _, cmd := range commands {
			_ = pipe.Process(ctx, once{cmd}) //nolint:errcheck // it only queues
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
