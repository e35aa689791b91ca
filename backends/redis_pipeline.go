package backends

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

const (
	// pipelines is how many batches for one server are on their way at a time:
	// while the server works on one, the other is written or read.
	pipelines = 2
	// maxPipelined bounds what one caller's reply waits for.
	maxPipelined = 128
)

// pipeline sends the commands of all callers to one server. A command is sent
// at once when nothing is on its way; what comes meanwhile goes together, as in
// the bbolt backend's committer. Its goroutines exist only while there is
// something to send.
type pipeline struct {
	client *redis.Client
	calls  *sync.WaitGroup // counts the goroutines, too

	mu      sync.Mutex // protects all below
	waiting []*sending
	running int
}

// sending is a command on its way.
type sending struct {
	cmd  *redis.Cmd
	done chan struct{}
	// state is unsent at first; whoever changes it decides.
	state atomic.Int32
}

const (
	unsent int32 = iota
	sent
	withdrawn
)

// do sends a command and returns its reply. It returns when ctx ends, whatever
// the client library does underneath. An error that is no unsentError says
// nothing about whether the server has got the command.
func (p *pipeline) do(ctx context.Context, cmd *redis.Cmd) (any, error) {
	s := &sending{cmd: cmd, done: make(chan struct{})}
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
		return cmd.Result()
	case <-ctx.Done():
		if s.state.CompareAndSwap(unsent, withdrawn) {
			return nil, &unsentError{ctx.Err()}
		}
		return nil, ctx.Err()
	}
}

// unsentError is the end of a context before its command was sent.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

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
		batch := p.waiting[:n:n]
		p.waiting = p.waiting[n:]
		p.mu.Unlock()
		p.send(batch)
	}
}

// send sends a batch and tells the callers.
func (p *pipeline) send(batch []*sending) {
	live := batch[:0]
	for _, s := range batch {
		if s.state.CompareAndSwap(unsent, sent) {
			live = append(live, s)
		}
	}
	// The client's own time-outs bound it: a batch has many callers, and ends
	// with none of them.
	ctx := context.Background()
	switch len(live) {
	case 0:
		return
	case 1:
		_ = p.client.Process(ctx, once{live[0].cmd}) //nolint:errcheck // the command has it
	default:
		pipe := p.client.Pipeline()
		for _, s := range live {
			_ = pipe.Process(ctx, once{s.cmd}) //nolint:errcheck // it only queues
		}
		_, _ = pipe.Exec(ctx) //nolint:errcheck // each command has its own
	}
	for _, s := range live {
		close(s.done)
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
		p = &pipeline{client: client, calls: &b.calls}
		b.nodes.all[client] = p
	}
	return p
}
