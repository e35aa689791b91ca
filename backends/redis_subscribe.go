package backends

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

const (
	// pollLogs is how soon a reader sees a record whose wake-up was lost.
	pollLogs = 2 * time.Second
	// pollRepositories is how soon it sees a repository that was new then, as
	// a multiple of pollLogs.
	pollRepositories = 15
)

// redisFeed is one subscription. It reads the repositories' logs; messages of
// the channel only tell which of them grew, and may be lost.
type redisFeed struct {
	backend *RedisBackend
	types   []string
	events  chan *enhanced.LockEvent
	channel *redis.PubSub

	// names and positions are of the repositories that are known, by tag. One
	// that comes up later is read from its beginning: it did not exist before.
	names     map[string]string
	positions map[string]uint64
}

// Subscribe returns the store's events from now on. See [enhanced.Backend].
func (b *RedisBackend) Subscribe(ctx context.Context, eventTypes []string) (<-chan *enhanced.LockEvent, error) {
	return b.SubscribeFrom(ctx, eventTypes, nil)
}

// SubscribeFrom returns the store's events after a position. See
// [enhanced.Backend].
func (b *RedisBackend) SubscribeFrom(ctx context.Context, eventTypes []string, after enhanced.LogPosition) (<-chan *enhanced.LockEvent, error) {
	const operation = "subscribe"
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	f, err := call(ctx, b, operation, false, func(ctx context.Context) (*redisFeed, error) { return b.newFeed(ctx, eventTypes, after) })
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	if !b.begin() {
		cancel()
		return nil, enhanced.NewBackendError(operation, errorsJoinClose(f.channel))
	}
	stop := context.AfterFunc(b.ending, cancel)
	go func() {
		defer b.calls.Done()
		defer cancel()
		defer stop()
		f.run(ctx)
	}()
	return f.events, nil
}

func errorsJoinClose(channel *redis.PubSub) error {
	_ = channel.Close() //nolint:errcheck // the backend is closed, which is what counts
	return enhanced.ErrClosed
}

func (b *RedisBackend) newFeed(ctx context.Context, types []string, after enhanced.LogPosition) (*redisFeed, error) {
	f := &redisFeed{
		backend: b,
		types:   slices.Clone(types),
		events:  make(chan *enhanced.LockEvent, b.config.Load().EventBufferSize),
		// Registered before the positions are read, so that nothing falls between.
		channel: b.client.Subscribe(ctx, b.keys.channel()),
	}
	if _, err := f.channel.Receive(ctx); err != nil {
		// Without the channel, by the ACL or for the moment, polling remains.
		b.logger.Warn("subscribing to channel %q: %v; events come up to %v late until it works, the first of a repository up to %v", b.keys.channel(), err, pollLogs, pollRepositories*pollLogs)
	}
	names, err := b.scanRepositories(ctx)
	if err == nil {
		f.names = names
		f.positions, err = b.sequences(ctx, names)
	}
	if err != nil {
		_ = f.channel.Close() //nolint:errcheck // the error before counts
		return nil, err
	}
	for tag, last := range f.positions {
		if after != nil {
			f.positions[tag] = min(after[names[tag]], last)
		}
	}
	return f, nil
}

func (f *redisFeed) run(ctx context.Context) {
	defer close(f.events)
	defer func() {
		if err := f.channel.Close(); err != nil {
			f.backend.logger.Debug("closing a subscription: %v", err)
		}
	}()
	messages := f.channel.ChannelWithSubscriptions()
	tick := time.NewTicker(pollLogs)
	defer tick.Stop()
	if !f.catchUp(ctx, false) {
		return
	}
	for ticks := 1; ; {
		var goesOn bool
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				messages = nil // polling remains
				continue
			}
			if m, ok := message.(*redis.Message); ok {
				goesOn = f.wake(ctx, m.Payload)
			} else {
				goesOn = f.catchUp(ctx, true) // connected again: what came between is lost
			}
		case <-tick.C:
			goesOn = f.catchUp(ctx, ticks%pollRepositories == 0)
			ticks++
		}
		if !goesOn {
			return
		}
	}
}

// wake reads the log that a message names; false when ctx has ended.
func (f *redisFeed) wake(ctx context.Context, tag string) bool {
	if _, known := f.names[tag]; !known {
		return f.catchUp(ctx, true)
	}
	return f.forward(ctx, tag)
}

// catchUp reads all logs that grew, those of new repositories too if wanted;
// false when ctx has ended.
func (f *redisFeed) catchUp(ctx context.Context, repositories bool) bool {
	if repositories {
		names, err := f.backend.scanRepositories(ctx)
		if err != nil {
			return f.failed(ctx, err)
		}
		for tag, name := range names {
			f.names[tag] = name
		}
	}
	last, err := f.backend.sequences(ctx, f.names)
	if err != nil {
		return f.failed(ctx, err)
	}
	for tag, sequence := range last {
		if sequence < f.positions[tag] {
			// The server has lost what was read already.
			f.positions[tag] = sequence
			if !f.send(ctx, skipped(f.names[tag], 0)) {
				return false
			}
		}
		if sequence > f.positions[tag] && !f.forward(ctx, tag) {
			return false
		}
	}
	return true
}

// failed reports whether to go on: the next poll tries again.
func (f *redisFeed) failed(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	f.backend.logger.Warn("reading events: %v", err)
	return true
}

// forward sends what is new in a repository's log; false when ctx has ended.
func (f *redisFeed) forward(ctx context.Context, tag string) bool {
	for {
		page, err := f.backend.readLog(ctx, tag, f.names[tag], f.positions[tag], feedPage)
		if err != nil {
			return f.failed(ctx, err)
		}
		for _, record := range page.Records {
			if missed := record.Sequence - f.positions[tag] - 1; missed > 0 && !f.send(ctx, skipped(f.names[tag], missed)) {
				return false
			}
			f.positions[tag] = record.Sequence
			event := record.Event()
			if record.Type == enhanced.EventUnreadable {
				event = skipped(f.names[tag], 1)
			} else if len(f.types) > 0 && !slices.Contains(f.types, record.Type) {
				continue
			}
			if !f.send(ctx, event) {
				return false
			}
		}
		if !page.More {
			return true
		}
	}
}

func (f *redisFeed) send(ctx context.Context, event *enhanced.LockEvent) bool {
	select {
	case f.events <- event:
		return true
	case <-ctx.Done():
		return false
	}
}
