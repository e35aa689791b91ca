package enhanced

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// fleetPoll is how often an adapter looks whether the mode was switched.
	fleetPoll = 500 * time.Millisecond
	// fleetBeat is how often it shows that it is there.
	fleetBeat = time.Minute
)

// ErrModeUnknown marks an error of an adapter that decides nothing, since it does
// not know by which database.
var ErrModeUnknown = errors.New("the mode of the fleet is unknown")

// member is an adapter's part in its [Fleet].
type member struct {
	adapter *LockingAdapter
	store   FleetStore
	name    string
	// instance is this life of the adapter.
	instance string

	starting sync.Mutex // held while the adapter joins
	cancel   context.CancelFunc
	done     chan struct{}

	work     atomic.Pointer[work]
	changing sync.Mutex // held while work changes

	gathering gathering

	// oneFile is set when the adapter joins, see inOneFile.
	oneFile atomic.Bool

	// stripes have shadow operations on one resource follow each other.
	stripes     [64]sync.Mutex
	differences differences
	orphans     orphans
	beat        time.Time
}

// newMember returns nil for an adapter that takes part in no fleet.
func newMember(a *LockingAdapter, config *EnhancedConfig) (*member, error) {
	if config.AdapterName == "" {
		return nil, nil
	}
	store, ok := a.backend.(FleetStore)
	if !ok {
		return nil, NewInvalidError("adapter_name: %q; the backend %T keeps no mode", config.AdapterName, a.backend)
	}
	m := &member{adapter: a, store: store, name: config.AdapterName, instance: uuid.NewString()}
	m.work.Store(&work{refusal: ErrModeUnknown})
	return m, nil
}

// enter begins an operation: it returns what to work by, and what ends it. Without
// an error the mode stays as it is until then. The first one joins the fleet.
func (m *member) enter(ctx context.Context) (*Fleet, func(), error) {
	w := m.begin()
	if w.refusal == nil {
		return &w.fleet, w.under.RUnlock, nil
	}
	w.under.RUnlock()
	if err := m.start(ctx); err != nil {
		return nil, nil, err
	}
	w = m.begin()
	if w.refusal != nil {
		w.under.RUnlock()
		return nil, nil, w.refusal
	}
	return &w.fleet, w.under.RUnlock, nil
}

// alone waits until no other shadow operation of this adapter is at work on a
// resource; the operation ends it.
func (m *member) alone(resource ResourceIdentifier) (end func()) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(resource.LegacyKey())) // never fails
	stripe := &m.stripes[h.Sum32()%uint32(len(m.stripes))]
	stripe.Lock()
	return stripe.Unlock
}

// start joins the fleet, if that is not done yet.
func (m *member) start(ctx context.Context) error {
	m.starting.Lock()
	defer m.starting.Unlock()
	if m.done != nil {
		return nil
	}
	if err := m.join(ctx); err != nil {
		return err
	}
	// It goes on when the call that began it has ended.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel, m.done = cancel, make(chan struct{})
	go m.loop(background)
	return nil
}

// stop leaves the fleet. Calls under way come to their end first.
func (m *member) stop(ctx context.Context) error {
	m.starting.Lock()
	defer m.starting.Unlock()
	if m.done != nil {
		m.cancel()
		<-m.done
	}
	joined := m.done != nil
	m.done = closedChannel()
	m.refuse(fmt.Errorf("adapter %q is closed: %w", m.name, ErrClosed))
	if !joined {
		return nil
	}
	_, err := m.store.ChangeFleet(ctx, func(f *Fleet) error {
		if a := f.Adapter(m.name); a != nil && a.Instance == m.instance {
			return f.Forget(m.name)
		}
		return nil
	})
	return err
}

func closedChannel() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// join adds the adapter, or its new life, to the fleet. What it then works by is
// the record that it is in.
func (m *member) join(ctx context.Context) error {
	fleet, err := m.store.ChangeFleet(ctx, func(f *Fleet) error {
		if f.Mode == "" {
			return NewInvalidError("no mode was set for the store; set one, for example with: atlantis-locks mode set off")
		}
		if f.Mode != ModeFull && m.adapter.legacy == nil {
			return NewInvalidError("mode %q: adapter %q has no legacy database to decide by", f.Mode, m.name)
		}
		f.Join(m.entry(f))
		return nil
	})
	if err != nil {
		return NewBackendError(fmt.Sprintf("adapter %q decides nothing", m.name), errors.Join(ErrModeUnknown, err))
	}
	m.findFile(ctx)
	m.adapter.logger.Info("adapter %q works by mode %s, epoch %d", m.name, fleet.Mode, fleet.Epoch)
	m.adopt(fleet)
	return nil
}

// entry is what the adapter says of itself when it works by a record.
func (m *member) entry(f *Fleet) FleetAdapter {
	m.beat = time.Now()
	return FleetAdapter{
		Name: m.name, Instance: m.instance, Mode: f.Mode, Epoch: f.Epoch, Legacy: m.adapter.legacy != nil, Seen: m.beat.UTC(),
		Differences: m.differences.count(), Recent: m.differences.texts(),
	}
}

func (m *member) loop(ctx context.Context) {
	defer close(m.done)
	ticker := time.NewTicker(fleetPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		again, err := m.follow(ctx)
		if err != nil && ctx.Err() == nil {
			m.adapter.logger.Warn("adapter %q can't follow the mode: %v", m.name, err)
		}
		if !again {
			return
		}
	}
}

// follow looks at the record, and does what it asks for. It returns false when the
// adapter is none of the fleet any longer.
func (m *member) follow(ctx context.Context) (again bool, err error) {
	fleet, err := m.store.ReadFleet(ctx)
	if err != nil {
		// The others need the grants of both databases until this one has followed.
		return true, err
	}
	if fleet.Epoch < m.work.Load().fleet.Epoch {
		return true, m.restore(ctx)
	}
	me := fleet.Adapter(m.name)
	switch {
	case me == nil:
		// Nobody counts with it any longer.
		m.refuse(fmt.Errorf("adapter %q was removed from the fleet: %w", m.name, ErrModeUnknown))
		return true, m.join(ctx)
	case me.Instance != m.instance:
		m.refuse(NewInvalidError("adapter_name: another adapter has joined as %q; give each a name of its own", m.name))
		return false, nil
	case me.Epoch != fleet.Epoch:
		return true, m.move(ctx, fleet, *me)
	}
	if time.Since(m.beat) < fleetBeat && me.Differences == m.differences.count() {
		m.adoptChanged(fleet)
		return true, nil
	}
	return true, m.write(ctx, fleet, m.entry(&fleet))
}

// restore writes the record again, as this adapter knows it, into a store that has
// lost it: without a record the store would decide, which has lost its locks, too.
func (m *member) restore(ctx context.Context) error {
	known := m.work.Load().fleet // only this goroutine changes it
	m.adapter.logger.Err("the store has lost the mode of the fleet; adapter %q writes it again: %s, epoch %d", m.name, known.Mode, known.Epoch)
	fleet, err := m.store.ChangeFleet(ctx, func(f *Fleet) error {
		if f.Epoch < known.Epoch {
			adapters := f.Adapters
			*f = known
			f.Adapters = adapters
			// What the store is to hold, it has lost, too.
			f.Epoch, f.From = known.Epoch+1, cmp.Or(known.From, known.Mode)
		}
		f.Put(m.entry(&known))
		return nil
	})
	if err == nil {
		m.adoptChanged(fleet)
	}
	return err
}

// move follows a switch: from now on operations need the grants of both databases,
// if those differ; when both hold the same, the adapter says so.
func (m *member) move(ctx context.Context, fleet Fleet, me FleetAdapter) error {
	m.adoptChanged(fleet)
	if err := m.reconcile(ctx, &fleet); err != nil {
		if me.Problem != err.Error() {
			me.Problem = err.Error()
			me.Seen = time.Now().UTC()
			err = errors.Join(err, m.write(ctx, fleet, me))
		}
		return err
	}
	return m.write(ctx, fleet, m.entry(&fleet))
}

// write writes the adapter's entry and works by what the record then is. When the
// mode was switched meanwhile, it writes nothing.
func (m *member) write(ctx context.Context, seen Fleet, entry FleetAdapter) error {
	fleet, err := m.store.ChangeFleet(ctx, func(f *Fleet) error {
		if me := f.Adapter(m.name); f.Epoch == seen.Epoch && me != nil && me.Instance == m.instance {
			f.Put(entry)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if me := fleet.Adapter(m.name); me != nil && me.Instance == m.instance {
		m.adoptChanged(fleet)
	}
	return nil
}
