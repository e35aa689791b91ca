package enhanced

import (
	"sync"
	"time"
)

// gatherAtMost bounds how long a call waits for others, see gathering.
const gatherAtMost = 50 * time.Millisecond

// gathering has calls that come together tell a store in a file of its own at the same
// moment what Atlantis' own database has decided, so that what many of them tell it
// takes one transaction. Each transaction waits for the disk, and so does Atlantis' own
// database, mostly for the same one, with each lock and each release.
//
// The moment is when as many calls wait as there are that Atlantis' own database has
// not answered yet. So it follows from the load and the speed of the disk; a call that
// is alone does not wait.
type gathering struct {
	mu              sync.Mutex // protects all below
	coming, waiting int
	moment          chan struct{} // is closed for those who wait
}

// gathered is one call's part in a gathering; nil for a call that has none.
type gathered struct {
	of    *gathering
	ended bool
}

// gather is called before Atlantis' own database is asked, or at once where the store
// comes first. A store that is in the file of Atlantis' own database takes its turn
// there between many of the others: who comes meanwhile shares that.
func (m *member) gather() *gathered {
	if _, file := m.adapter.backend.(stillStore); !file || m.inOneFile() {
		return nil
	}
	m.gathering.mu.Lock()
	defer m.gathering.mu.Unlock()
	m.gathering.coming++
	return &gathered{of: &m.gathering}
}

// wait returns at the next moment.
func (c *gathered) wait() {
	if c == nil {
		return
	}
	moment := c.join()
	patience := time.NewTimer(gatherAtMost)
	defer patience.Stop()
	select {
	case <-moment:
	case <-patience.C:
		c.of.now(moment)
	}
}

func (c *gathered) join() (moment chan struct{}) {
	g := c.of
	g.mu.Lock()
	defer g.mu.Unlock()
	c.ended = true
	g.coming--
	g.waiting++
	if g.moment == nil {
		g.moment = make(chan struct{})
	}
	moment = g.moment
	g.look()
	return moment
}

// end is for a call that has nothing to tell, and does nothing for others.
func (c *gathered) end() {
	if c == nil || c.ended {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.ended = true
	c.of.coming--
	c.of.look()
}

// look is called with g.mu held.
func (g *gathering) look() {
	if g.waiting > 0 && g.waiting >= g.coming {
		g.wake()
	}
}

// now makes it the moment for those who wait for this one.
func (g *gathering) now(moment chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.moment == moment {
		g.wake()
	}
}

// wake is called with g.mu held.
func (g *gathering) wake() {
	close(g.moment)
	g.moment, g.waiting = nil, 0
}
