package redistest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy passes connections on to a server, as well as its [Network] does. When it
// is cut nothing passes any more, and nobody is told, as in a partition of the
// network. When it is broken everybody is told.
type Proxy struct {
	// Addr is where it listens, host:port.
	Addr string
	// Dropped counts the bytes that have not passed.
	Dropped atomic.Int64
	// Late counts the pieces of requests that were delivered when their client had
	// hung up.
	Late atomic.Int64

	cut      atomic.Bool
	broken   atomic.Bool
	network  atomic.Pointer[Network]
	listener net.Listener
	ctx      context.Context

	mu     sync.Mutex // protects below
	closed bool
	open   map[net.Conn]struct{}
	copies sync.WaitGroup
}

// StartProxy starts a proxy that ends with the test.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	p := &Proxy{Addr: listener.Addr().String(), listener: listener, ctx: ctx, open: make(map[net.Conn]struct{})}
	p.Be(Network{})
	p.copies.Go(func() { p.accept(target) })
	tb.Cleanup(func() {
		cancel()
		p.close()
	})
	return p
}

// Cut lets nothing pass any more. Connections stay open.
func (p *Proxy) Cut() { p.cut.Store(true) }

// IsCut reports whether nothing passes.
func (p *Proxy) IsCut() bool { return p.cut.Load() }

// Break closes all connections, and new ones at once.
func (p *Proxy) Break() {
	p.broken.Store(true)
	p.hangUp()
}

// Heal lets everything pass again, on new connections: those of before the cut
// have lost bytes, so they are closed.
func (p *Proxy) Heal() {
	p.hangUp()
	p.cut.Store(false)
	p.broken.Store(false)
}

func (p *Proxy) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for connection := range p.open {
		_ = connection.Close() //nolint:errcheck // it is broken anyway
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	for connection := range p.open {
		_ = connection.Close() //nolint:errcheck // nobody uses it any more
	}
	p.mu.Unlock()
	_ = p.listener.Close() //nolint:errcheck // nobody uses it any more
	p.copies.Wait()
}

func (p *Proxy) accept(target string) {
	for {
		connection, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.copies.Go(func() { p.pass(connection, target) })
	}
}

func (p *Proxy) pass(client net.Conn, target string) {
	if !p.track(client) {
		return
	}
	defer p.forget(client)
	var dialer net.Dialer
	server, err := dialer.DialContext(p.ctx, "tcp", target)
	if err != nil || !p.track(server) {
		return
	}
	defer p.forget(server)
	var back sync.WaitGroup
	back.Go(func() { p.forward(client, server, toClient) })
	p.forward(server, client, toServer)
	back.Wait()
}

func (p *Proxy) track(connection net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.broken.Load() {
		_ = connection.Close() //nolint:errcheck // nobody uses it any more
		return false
	}
	p.open[connection] = struct{}{}
	return true
}

func (p *Proxy) forget(connection net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, connection)
	_ = connection.Close() //nolint:errcheck // nobody uses it any more
}
