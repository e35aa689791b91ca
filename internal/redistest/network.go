package redistest

import (
	"bytes"
	"net"
	"sync/atomic"
	"time"
)

// Network is how good the network behind a [Proxy] is. The zero value loses
// nothing and takes no time.
type Network struct {
	// Delay says how long the next piece of what is sent, either way, is under way.
	// Pieces stay in their order. A request whose client has hung up meanwhile
	// arrives all the same. It is called by many goroutines. Nil for no time.
	Delay func() time.Duration
	// BytesPerSecond bounds each direction of each connection. 0 for no bound.
	BytesPerSecond int
	// LosesRequests and LosesReplies let nothing pass in one direction, and
	// nobody is told: a connection is half open.
	LosesRequests, LosesReplies bool
}

// Be makes the network what n says, for what is sent from now on. A connection
// that has lost bytes stays useless until [Proxy.Heal].
func (p *Proxy) Be(n Network) { p.network.Store(&n) }

// direction is one of a connection.
type direction bool

const (
	toServer direction = false
	toClient direction = true
)

// piece is what was read at once, and when it is there.
type piece struct {
	data []byte
	at   time.Time
}

// underWay is how many pieces fit into one direction of a connection.
const underWay = 1024

// forward copies until one side ends, and then, with what is under way delivered,
// ends the other.
func (p *Proxy) forward(to, from net.Conn, way direction) {
	defer to.Close() //nolint:errcheck // the other direction ends with it
	pieces := make(chan piece, underWay)
	var ended atomic.Bool
	p.copies.Go(func() {
		defer close(pieces)
		defer ended.Store(true)
		p.read(from, way, pieces)
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	gone := false // nobody takes what is delivered
	for next := range pieces {
		if gone {
			continue
		}
		if wait := time.Until(next.at); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-p.ctx.Done():
			}
		}
		if way == toServer && ended.Load() {
			p.Late.Add(1)
		}
		_, err := to.Write(next.data)
		gone = err != nil || p.ctx.Err() != nil
	}
}

// read sends what it reads on its way, until there is no more.
func (p *Proxy) read(from net.Conn, way direction, pieces chan<- piece) {
	buffer := make([]byte, 64<<10)
	free := time.Now() // when the line has sent what it was given
	for {
		n, err := from.Read(buffer)
		switch {
		case n == 0:
		case p.loses(way):
			p.Dropped.Add(int64(n))
		default:
			free = p.sent(free, n)
			pieces <- piece{bytes.Clone(buffer[:n]), free.Add(p.delay())}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) loses(way direction) bool {
	n := p.network.Load()
	return p.cut.Load() || way == toServer && n.LosesRequests || way == toClient && n.LosesReplies
}

// sent returns when a line that is free at some time has sent n bytes more.
func (p *Proxy) sent(free time.Time, n int) time.Time {
	if now := time.Now(); free.Before(now) {
		free = now
	}
	if rate := p.network.Load().BytesPerSecond; rate > 0 {
		free = free.Add(time.Duration(n) * time.Second / time.Duration(rate))
	}
	return free
}

func (p *Proxy) delay() time.Duration {
	if delay := p.network.Load().Delay; delay != nil {
		return delay()
	}
	return 0
}
