package redistest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Patience has clients give up soon on a server that is away, and only on such a
// one: on a busy machine an answer is late, too. Their own limits on reads are to
// be long.
type Patience struct {
	// Away reports whether no answer can come.
	Away func() bool
	// Wait is how long a client waits for one then.
	Wait time.Duration

	mu   sync.Mutex // protects open
	open []*patient
}

// Dial connects a client; it is a Dialer of its options.
func (p *Patience) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := connection.(*net.TCPConn)
	if !ok {
		_ = connection.Close() //nolint:errcheck // nobody uses it
		return nil, fmt.Errorf("dialed a %T", connection)
	}
	c := &patient{TCPConn: tcp, patience: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, c)
	return c, nil
}

// End is for a server that has just gone: who waits for an answer already gives up
// as soon as who asks from now on.
func (p *Patience) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		if c.asked.Load() {
			_ = c.TCPConn.SetReadDeadline(time.Now().Add(p.Wait)) //nolint:errcheck // it is closed
		}
	}
}

// patient is a connection of such a client. It keeps the methods of its kind: the
// library looks through them for connections that are dead.
type patient struct {
	*net.TCPConn
	patience *Patience
	asked    atomic.Bool // its client waits for an answer, and not for a message
}

// SetReadDeadline is what the client does when it begins to wait.
func (c *patient) SetReadDeadline(deadline time.Time) error {
	asked := !deadline.IsZero()
	c.asked.Store(asked)
	err := c.TCPConn.SetReadDeadline(deadline)
	if asked && c.patience.Away() { // looked at last: it may just have gone
		err = c.TCPConn.SetReadDeadline(time.Now().Add(c.patience.Wait))
	}
	return err
}
