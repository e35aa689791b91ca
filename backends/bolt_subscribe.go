package backends

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// feeds are the subscriptions of a backend. A commit tells them which
// repositories' logs grew; each reads the logs at its own pace.
type feeds struct {
	mu     sync.Mutex // protects all below
	feeds  map[*feed]struct{}
	closed bool
	done   sync.WaitGroup
}

// feed is one subscription.
type feed struct {
	backend *BoltBackend
	types   []string
	events  chan *enhanced.LockEvent
	cancel  context.CancelFunc

	mu    sync.Mutex // protects grown
	grown map[string]struct{}
	wake  chan struct{} // holds one signal

	// positions are the sequences read so far, by repository tag. A repository
	// without one starts at its beginning: it did not exist at the start.
	positions map[string]uint64
}

// Subscribe returns the store's events from now on. See [enhanced.Backend].
func (b *BoltBackend) Subscribe(ctx context.Context, eventTypes []string) (<-chan *enhanced.LockEvent, error) {
	return b.SubscribeFrom(ctx, eventTypes, nil)
}

// SubscribeFrom returns the store's events after a position. See
// [enhanced.Backend].
func (b *BoltBackend) SubscribeFrom(ctx context.Context, eventTypes []string, after enhanced.LogPosition) (<-chan *enhanced.LockEvent, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{
		backend:   b,
		types:     slices.Clone(eventTypes),
		events:    make(chan *enhanced.LockEvent, b.config.Load().EventBufferSize),
		cancel:    cancel,
		grown:     make(map[string]struct{}),
		wake:      make(chan struct{}, 1),
		positions: make(map[string]uint64),
	}
	// Registered before the positions are read, so that nothing falls between.
	if !b.feeds.add(f) {
		cancel()
		return nil, enhanced.NewBackendError("subscribe", enhanced.ErrClosed)
	}
	behind := make(map[string]struct{})
	err := b.view(ctx, "subscribe", func(tx *bbolt.Tx) error {
		eachRepository(tx, 0, func(r *repository) {
			last := r.lastSequence()
			position := last
			if after != nil {
				position = min(after[r.name], last)
			}
			f.positions[r.tag] = position
			if position < last {
				behind[r.tag] = struct{}{}
			}
		})
		return nil
	})
	if err != nil {
		b.feeds.remove(f)
		return nil, err
	}
	if len(behind) > 0 {
		f.grew(behind)
	}
	go f.run(ctx)
	return f.events, nil
}

func (f *feed) run(ctx context.Context) {
	defer f.backend.feeds.remove(f)
	defer close(f.events)
	tells := slices.Contains(f.types, enhanced.EventCaughtUp)
	var tick <-chan time.Time
	if tells {
		ticker := time.NewTicker(pollLogs)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		start := time.Now()
		for tag := range f.takeGrown() {
			if !f.forward(ctx, tag) {
				return
			}
		}
		if tells && !f.send(ctx, caughtUp(start)) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-tick:
		}
	}
}

// caughtUp tells a subscriber that it has all that was in the logs at a time.
func caughtUp(at time.Time) *enhanced.LockEvent {
	return &enhanced.LockEvent{Type: enhanced.EventCaughtUp, Timestamp: at}
}

func (f *feed) send(ctx context.Context, event *enhanced.LockEvent) bool {
	select {
	case f.events <- event:
		return true
	case <-ctx.Done():
		return false
	}
}

// forward sends what is new in a repository's log; false when ctx has ended.
func (f *feed) forward(ctx context.Context, tag string) bool {
	for more := true; more; {
		var events []*enhanced.LockEvent
		var err error
		events, more, err = f.read(ctx, tag)
		if err != nil {
			return false
		}
		for _, event := range events {
			if !f.send(ctx, event) {
				return false
			}
		}
	}
	return true
}

// feedPage bounds the records that a feed reads in one transaction: an open
// one keeps bbolt from reusing pages.
const feedPage = 256

// read returns the wanted events of a repository's next records, and whether
// there may be more.
func (f *feed) read(ctx context.Context, tag string) (events []*enhanced.LockEvent, more bool, err error) {
	err = f.backend.view(ctx, "read the log", func(tx *bbolt.Tx) error {
		name, found := repositoryName(tx, tag)
		if !found {
			return nil
		}
		records := 0
		r := f.backend.repository(tx, name, 0)
		c := r.logAfter(f.positions[tag])
		for ; c.valid(); c.next() {
			if records++; records > feedPage {
				more = true
				return nil
			}
			sequence := c.sequence()
			if missed := sequence - f.positions[tag] - 1; missed > 0 {
				events = append(events, skipped(name, missed))
			}
			f.positions[tag] = sequence
			record, err := decodeLogRecord(name, sequence, c.data)
			if err != nil {
				events = append(events, skipped(name, 1))
				continue
			}
			if len(f.types) == 0 || slices.Contains(f.types, record.Type) {
				events = append(events, record.Event())
			}
		}
		// Those that were removed at the end of the log have no record behind
		// them that would show the gap.
		if last := r.lastSequence(); last > f.positions[tag] {
			events = append(events, skipped(name, last-f.positions[tag]))
			f.positions[tag] = last
		}
		return nil
	})
	return events, more, err
}

// skipped tells a subscriber that it missed records. It is sent whatever types
// the subscriber asked for.
func skipped(repository string, records uint64) *enhanced.LockEvent {
	return &enhanced.LockEvent{
		Type:      enhanced.EventSkipped,
		Resource:  enhanced.ResourceIdentifier{Namespace: repository},
		Timestamp: time.Now(),
		Metadata:  map[string]string{"records": strconv.FormatUint(records, 10)},
	}
}

func (f *feed) takeGrown() map[string]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	grown := f.grown
	f.grown = make(map[string]struct{})
	return grown
}

func (f *feed) grew(tags map[string]struct{}) {
	f.mu.Lock()
	for tag := range tags {
		f.grown[tag] = struct{}{}
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default: // a signal is waiting already
	}
}

func (s *feeds) add(f *feed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.feeds == nil {
		s.feeds = make(map[*feed]struct{})
	}
	s.feeds[f] = struct{}{}
	s.done.Add(1)
	return true
}

func (s *feeds) remove(f *feed) {
	f.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.feeds, f)
	s.done.Done()
}

// wake tells all feeds which logs grew. It never waits for a reader.
func (s *feeds) wake(tags map[string]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.feeds {
		f.grew(tags)
	}
}

func (s *feeds) close() {
	s.mu.Lock()
	s.closed = true
	for f := range s.feeds {
		f.cancel()
	}
	s.mu.Unlock()
	s.done.Wait()
}
