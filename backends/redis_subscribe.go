package backends

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"golang.org/x/sync/errgroup"
)

const (
	// pollLogs is how soon a reader sees a record whose wake-up was lost.
	pollLogs = 2 * time.Second
	// pollRepositories is how soon it sees a repository that was new then, as
	// a multiple of pollLogs.
	pollRepositories = 15
	// listenTime is how long writers go on waking a reader that is gone.
	listenTime = time.Minute
)

// subscribing names the operation in errors.
const subscribing = "subscribe"

// redisFeed is one subscription. It reads the repositories' logs; messages of
// Pub/Sub only tell which of them grew, and may be lost.
type redisFeed struct {
	backend *RedisBackend
	types   []string
	events  chan *enhanced.LockEvent
	// news tells of new repositories and, on one server, of logs that grew;
	// shards tell of the latter on a cluster.
	news   *redis.PubSub
	shards *shards

	// logs are those that are known, by tag. One that comes up later is read from
	// its beginning: it did not exist before.
	logs map[string]*feedLog
	// tells is set for a subscriber that wants to know how far it has come, and
	// missed while something could not be read.
	tells, missed bool
}

// feedLog is how far a log was read.
type feedLog struct {
	name string
	// sequence is the last record's, and at its time, 0 when that is not known.
	// They tell a log that went on from one of which the server lost the end.
	sequence uint64
	at       int64
}

// Subscribe returns the store's events from now on. See [enhanced.Backend].
func (b *RedisBackend) Subscribe(ctx context.Context, eventTypes []string) (<-chan *enhanced.LockEvent, error) {
	return b.SubscribeFrom(ctx, eventTypes, nil)
}

// SubscribeFrom returns the store's events after a position. See
// [enhanced.Backend].
func (b *RedisBackend) SubscribeFrom(ctx context.Context, eventTypes []string, after enhanced.LogPosition) (<-chan *enhanced.LockEvent, error) {
	if err := b.ready(ctx, subscribing); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &redisFeed{
		backend: b, types: slices.Clone(eventTypes),
		events: make(chan *enhanced.LockEvent, b.config.Load().EventBufferSize),
		news:   b.client.Subscribe(ctx), logs: make(map[string]*feedLog),
		tells: slices.Contains(eventTypes, enhanced.EventCaughtUp),
	}
	if cluster, ok := b.client.(*redis.ClusterClient); ok && b.sharded.Load() {
		f.shards = newShards(cluster, b.keys)
	}
	_, err := call(ctx, b, subscribing, false, func(ctx context.Context) (struct{}, error) { return struct{}{}, f.listen(ctx) })
	if err == nil {
		err = f.begin(ctx, after)
	}
	if err == nil && !b.begin() {
		err = enhanced.NewBackendError(subscribing, enhanced.ErrClosed)
	}
	if err != nil {
		cancel()
		f.close()
		return nil, err
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

// listen asks for messages, before positions are read, so that nothing falls
// between. Without the channel, by the ACL or for the moment, polling remains.
func (f *redisFeed) listen(ctx context.Context) error {
	channel := f.backend.keys.news()
	err := f.news.Subscribe(ctx, channel)
	if err == nil {
		_, err = f.news.Receive(ctx)
	}
	if err != nil && ctx.Err() == nil {
		f.backend.logger.Warn("subscribing to channel %q: %v; events come up to %v late until it works, the first of a repository up to %v", channel, err, pollLogs, pollRepositories*pollLogs)
	}
	return ctx.Err()
}

// begin finds the logs and where to begin in each.
func (f *redisFeed) begin(ctx context.Context, after enhanced.LogPosition) error {
	tags, err := f.backend.tags(ctx, subscribing)
	if err != nil {
		return err
	}
	heads, err := f.ask(ctx, tags)
	for tag, head := range heads {
		if after != nil && after[head.name] < head.sequence {
			head.sequence, head.at = after[head.name], 0
		}
		f.logs[tag] = &head
	}
	if len(heads) == 0 {
		return err
	}
	f.failed(ctx, err) // the others can be read
	return nil
}

func (f *redisFeed) close() {
	if err := f.news.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		f.backend.logger.Debug("closing a subscription: %v", err)
	}
	f.shards.close()
}

func (f *redisFeed) run(ctx context.Context) {
	defer close(f.events)
	all := f.news.ChannelWithSubscriptions()
	defer func() {
		f.close()
		// The library's reader would wait a minute for who takes its messages.
		for range all { //nolint:revive // it ends with the subscription
		}
	}()
	messages := all
	tick := time.NewTicker(pollLogs)
	defer tick.Stop()
	goesOn := f.catchUp(ctx, false)
	for ticks := 1; goesOn; {
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
		case <-f.shards.signal():
			for _, key := range f.shards.grown() {
				goesOn = goesOn && f.wake(ctx, key)
			}
		case <-tick.C:
			goesOn = f.catchUp(ctx, ticks%pollRepositories == 0)
			ticks++
		}
	}
}

// wake reads the log of the repository whose state key a message names; false
// when ctx has ended.
func (f *redisFeed) wake(ctx context.Context, key string) bool {
	tag, _, ok := f.backend.keys.split(key)
	switch {
	case !ok:
		return true
	case f.logs[tag] == nil:
		return f.look(ctx, []string{tag})
	}
	return f.forward(ctx, tag)
}

// catchUp reads all logs that grew, those of new repositories too if wanted;
// false when ctx has ended.
func (f *redisFeed) catchUp(ctx context.Context, repositories bool) bool {
	start := time.Now()
	f.missed = false
	repositories = repositories || f.tells // one that is not known may be ahead
	tags := slices.Collect(maps.Keys(f.logs))
	if repositories {
		all, err := f.backend.tags(ctx, subscribing)
		if err != nil && !f.failed(ctx, err) {
			return false
		}
		for _, tag := range all {
			if f.logs[tag] == nil {
				tags = append(tags, tag)
			}
		}
	}
	goesOn := f.look(ctx, tags)
	if goesOn && f.tells && !f.missed {
		return f.send(ctx, caughtUp(start))
	}
	return goesOn
}

// look asks logs where they are and reads those that are not where they were;
// false when ctx has ended. A log that comes up is read from its beginning.
func (f *redisFeed) look(ctx context.Context, tags []string) bool {
	heads, err := f.ask(ctx, tags)
	if err != nil && !f.failed(ctx, err) {
		return false
	}
	for _, tag := range tags {
		if log, isThere := f.logs[tag], heads[tag].name != ""; err == nil && log != nil && !isThere && f.tells {
			// The server has lost all of it.
			delete(f.logs, tag)
			if !f.send(ctx, skipped(log.name, 0)) {
				return false
			}
		}
	}
	for tag, head := range heads {
		log := f.logs[tag]
		if log == nil {
			log = &feedLog{name: head.name}
			f.logs[tag] = log
		}
		if head.sequence == log.sequence && (head.at == log.at || log.at == 0) {
			continue
		}
		if !f.forward(ctx, tag) {
			return false
		}
	}
	return true
}

// ask asks logs where they are, and tells their writers that somebody listens.
// One that can't be asked keeps no other from being read.
func (f *redisFeed) ask(ctx context.Context, tags []string) (map[string]feedLog, error) {
	var mu sync.Mutex // protects heads and problems
	heads, problems := make(map[string]feedLog, len(tags)), []error(nil)
	var group errgroup.Group
	group.SetLimit(readers)
	for _, tag := range tags {
		group.Go(func() error {
			head, err := f.backend.head(ctx, tag)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				problems = append(problems, err)
			case head.name != "":
				heads[tag] = head
			}
			return nil
		})
	}
	_ = group.Wait() //nolint:errcheck // they are in problems
	f.shards.keep(heads)
	return heads, errors.Join(problems...)
}

// head asks where a log is.
func (b *RedisBackend) head(ctx context.Context, tag string) (feedLog, error) {
	reply, err := b.run(ctx, subscribing, b.scripts.listen, []string{b.keys.state(tag), b.keys.key(tag, "log")}, listenTime.Microseconds())
	if err != nil {
		return feedLog{}, err
	}
	head := feedLog{name: reply[0]}
	if reply[1] != "" {
		if head.sequence, err = strconv.ParseUint(reply[1], 10, 64); err != nil {
			return feedLog{}, enhanced.NewBackendError(subscribing, fmt.Errorf("%q: %w", b.keys.state(tag), err))
		}
	}
	if reply[2] != "" {
		head.at, err = strconv.ParseInt(reply[2], 10, 64)
	}
	return head, err
}

// failed reports whether to go on: the next poll tries again.
func (f *redisFeed) failed(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, enhanced.ErrClosed) {
		return false
	}
	if err != nil {
		f.missed = true
		f.backend.logger.Warn("reading events: %v", err)
	}
	return true
}

// forward sends what is new in a repository's log; false when ctx has ended.
func (f *redisFeed) forward(ctx context.Context, tag string) bool {
	log := f.logs[tag]
	for {
		// With the record that was read last: that it is still there says that
		// the log is still the same.
		piece, err := f.backend.readLog(ctx, tag, log.name, max(log.sequence, 1), feedPage)
		if err != nil {
			return f.failed(ctx, err)
		}
		records := piece.Records
		switch {
		case log.sequence == 0:
		case len(records) > 0 && records[0].Sequence == log.sequence && (log.at == 0 || recordTime(records[0]) == log.at):
			records = records[1:]
		case log.at != 0 && piece.Trimmed < log.sequence:
			if err := f.rewind(ctx, tag, piece); err != nil {
				return f.failed(ctx, err)
			}
			if !f.send(ctx, skipped(log.name, 0)) {
				return false
			}
			continue
		}
		for _, record := range records {
			if !f.deliver(ctx, log, record) {
				return false
			}
		}
		if !piece.More {
			return true
		}
	}
}

// deliver sends a record of a log, and before it how many are missing.
func (f *redisFeed) deliver(ctx context.Context, log *feedLog, record *enhanced.LogRecord) bool {
	if missed := record.Sequence - log.sequence - 1; missed > 0 && !f.send(ctx, skipped(log.name, missed)) {
		return false
	}
	log.sequence, log.at = record.Sequence, recordTime(record)
	event := record.Event()
	if record.Type == enhanced.EventUnreadable {
		event = skipped(log.name, 1)
	} else if len(f.types) > 0 && !slices.Contains(f.types, record.Type) {
		return true
	}
	return f.send(ctx, event)
}

// recordTime is a record's time as the store has it, 0 for one that can't be
// read.
func recordTime(record *enhanced.LogRecord) int64 {
	if record.Time.IsZero() {
		return 0
	}
	return record.Time.UnixMicro()
}

// rewind goes back in a log of which the server has lost the end, to where what
// is newer than all that was read begins. Records are in the order of time.
func (f *redisFeed) rewind(ctx context.Context, tag string, piece *logPiece) error {
	log := f.logs[tag]
	var failure error
	first := int(piece.Trimmed) + 1                                  //nolint:gosec // counts records
	newer := sort.Search(int(piece.last)-first+1, func(i int) bool { //nolint:gosec // counts records
		one, err := f.backend.readLog(ctx, tag, log.name, uint64(first+i), 1) //nolint:gosec // as above
		if err != nil {
			failure = errors.Join(failure, err)
			return true
		}
		return len(one.Records) == 0 || recordTime(one.Records[0]) > log.at
	})
	if failure == nil {
		log.sequence, log.at = uint64(first+newer-1), 0 //nolint:gosec // as above
	}
	return failure
}

func (f *redisFeed) send(ctx context.Context, event *enhanced.LockEvent) bool {
	select {
	case f.events <- event:
		return true
	case <-ctx.Done():
		return false
	}
}
