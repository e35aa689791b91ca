package enhanced

import "sync"

// work is what an adapter works by for a time: each operation by the same until it has
// ended. It changes without anybody waiting for operations of before but who changes it.
// Those that begin meanwhile work by the new one, as they would in another adapter that
// has heard of a switch earlier.
type work struct {
	fleet Fleet
	// refusal is why the adapter decides nothing; nil once it has joined.
	refusal error
	// under is held for reading by each operation under way.
	under sync.RWMutex
}

// begin begins an operation; the caller unlocks what it works by for reading.
func (m *member) begin() *work {
	for {
		w := m.work.Load()
		w.under.RLock()
		if m.work.Load() == w {
			return w
		}
		w.under.RUnlock()
	}
}

// change has operations work by something else from now on, and returns when those of
// before have ended.
func (m *member) change(next *work) {
	m.changing.Lock()
	defer m.changing.Unlock()
	before := m.work.Swap(next)
	before.under.Lock()
	defer before.under.Unlock()
}

// adopt has operations work by a record.
func (m *member) adopt(fleet Fleet) { m.change(&work{fleet: fleet}) }

// adoptChanged adopts a record, unless that changes nothing.
func (m *member) adoptChanged(fleet Fleet) {
	known := &m.work.Load().fleet
	if known.Epoch != fleet.Epoch || known.Mode != fleet.Mode || known.Deciders() != fleet.Deciders() {
		m.adopt(fleet)
	}
}

func (m *member) refuse(err error) { m.change(&work{fleet: m.work.Load().fleet, refusal: err}) }

// pause waits for operations under way, and has others wait until the end.
func (m *member) pause() (end func()) {
	if m == nil {
		return func() {}
	}
	m.changing.Lock()
	w := m.work.Load()
	w.under.Lock()
	return func() {
		w.under.Unlock()
		m.changing.Unlock()
	}
}
