package backends

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// listen hears what becomes of this process's waiters, from the first one on. A
// channel that can't be listened to, by the ACL or for the moment, costs up to
// watchInterval for each turn.
func (b *RedisBackend) listen(ctx context.Context) error {
	const operation = "listen for turns"
	if err := b.ready(ctx, operation); err != nil {
		return err
	}
	b.listening.Do(func() {
		if b.begin() {
			go b.hear()
		} else {
			close(b.listened) // what follows says so
		}
	})
	select {
	case <-b.listened:
	case <-ctx.Done(): // what follows says so
	case <-b.turns.closed:
	}
	return nil
}

// hear subscribes on its own, since the client library does that without regard
// to the contexts of those who wait for it. It reads by itself, too: the library's
// channel has a goroutine more, which each turn would wait for.
func (b *RedisBackend) hear() {
	defer b.calls.Done()
	channel := b.keys.calls(b.process)
	messages := b.client.Subscribe(b.ending, channel)
	silence := func() {
		if err := messages.Close(); err != nil {
			b.logger.Debug("closing the channel of turns: %v", err)
		}
	}
	if _, err := messages.ReceiveTimeout(b.ending, watchInterval); err != nil {
		b.logger.Warn("subscribing to channel %q: %v; those who wait learn of their turn up to %v late until it works", channel, err, watchInterval)
	}
	close(b.listened)
	b.calls.Add(1) // while hear is counted
	go func() {
		defer b.calls.Done()
		defer silence() // it wakes who reads
		b.keepHearing(messages)
	}()
	for {
		m, err := messages.ReceiveMessage(b.ending)
		switch {
		case b.ending.Err() != nil:
			return
		case err == nil:
			b.heard(m.Payload)
		default: // the library connects and subscribes again
			select {
			case <-b.ending.Done():
			case <-time.After(hearPause):
			}
		}
	}
}

const (
	// hearPause is how long after a failure the channel is read again.
	hearPause = 100 * time.Millisecond
	// hearCheck is how often the channel's connection is tried.
	hearCheck = 3 * time.Second
)

// keepHearing sends pings until the backend is closed: one that can't be sent has the
// library connect again.
func (b *RedisBackend) keepHearing(messages *redis.PubSub) {
	ticker := time.NewTicker(hearCheck)
	defer ticker.Stop()
	for {
		select {
		case <-b.ending.Done():
			return
		case <-ticker.C:
		}
		if err := messages.Ping(b.ending); err != nil {
			b.logger.Debug("trying the channel of turns: %v", err)
		}
	}
}

// heard answers a call by a message of the scripts: repository, request, what
// became of it, and more about that.
func (b *RedisBackend) heard(message string) {
	parts := strings.SplitN(message, "\n", 4)
	if len(parts) < 3 {
		return
	}
	parts = append(parts, "")
	name, rest := requestName{parts[0], parts[1]}, parts[3]
	if parts[2] == "set" {
		b.heardOfSet(name, rest)
		return
	}
	r := b.turns.requestOf(name)
	if r == nil {
		return // its call has gone, and cleans up after itself
	}
	var lock *enhanced.EnhancedLock
	var err error
	switch owner := r.Owner().String(); parts[2] {
	case "granted":
		if b.config.Load().RedisMinReplicasAck > 0 {
			// It counts once replicas have it.
			b.calls.Add(1) // while hear is counted
			go func() {
				defer b.calls.Done()
				b.attend(b.ending, r.Resource)
			}()
			return
		}
		fields := strings.Split(rest, "\n")
		if len(fields) != headerLines {
			return
		}
		original := enhanced.SanitizeProjectLock(r.ProjectLock())
		lock, err = grantedLock(r, enhanced.RepositoryTag(name.repository), owner, original, fields[0], fields[1], fields[2])
		if err == nil { // what is stored can be of the process that the call was in before
			b.locks.add(lock, false)
		}
	default:
		if err = b.heardError(r.Resource, owner, parts[2], rest); err == nil {
			return
		}
	}
	b.turns.answer(name, lock, err)
}

// heardError is the answer to a call that has got nothing, nil where that is found out
// by looking.
func (b *RedisBackend) heardError(resource enhanced.ResourceIdentifier, owner, what, rest string) error {
	switch what {
	case "elsewhere":
		return notWaitingError(resource)
	case "cancelled":
		return cancelledError(resource, owner, rest)
	case "deadlock":
		report, err := decodeDeadlock(resource.Namespace, rest, 0)
		if err != nil {
			return err
		}
		return enhanced.NewDeadlockError(resource, owner, report, nil)
	case "closing":
		return closingError(resource, owner)
	case "own":
		header, details := cutLines(rest, headerLines)
		holder, err := b.lockIn(header, details, resource)
		if err != nil {
			return err
		}
		return enhanced.NewHeldError(resource, holder)
	}
	return nil
}

// cutLines cuts a text after n lines.
func cutLines(text string, n int) (before, after string) {
	at := 0
	for range n {
		next := strings.IndexByte(text[at:], '\n')
		if next < 0 {
			return text, ""
		}
		at += next + 1
	}
	return text[:at-1], text[at:]
}

// watch looks after a resource that calls wait for: it says that this process is
// alive, settles the resource when the lease on it ends, and answers calls that
// nobody has told.
func (b *RedisBackend) watch(ctx context.Context, resource enhanced.ResourceIdentifier) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(b.attend(ctx, resource))
	}
}

// attendPage bounds the requests of one step.
const attendPage = 500

// attend does it once, and returns when to do it again.
func (b *RedisBackend) attend(ctx context.Context, resource enhanced.ResourceIdentifier) time.Duration {
	often := min(watchInterval, b.config.Load().WaiterLiveness/4)
	next := often
	names := b.turns.unanswered(resource)
	if len(names) == 0 {
		names = []requestName{{}} // it is settled all the same
	}
	for page := range slices.Chunk(names, attendPage) {
		until, err := b.attendTo(ctx, resource, page)
		if err != nil {
			if ctx.Err() == nil {
				b.logger.Err("looking after those who wait for %s: %v", resource, err)
			}
			return often
		}
		if until > 0 {
			next = min(next, until)
		}
	}
	return max(next, time.Millisecond)
}

// attendTo returns how long the lease on the resource lasts, 0 when there is
// none.
func (b *RedisBackend) attendTo(ctx context.Context, resource enhanced.ResourceIdentifier, names []requestName) (time.Duration, error) {
	args := []any{b.process, b.config.Load().WaiterLiveness.Microseconds()}
	for _, name := range names {
		args = append(args, name.id)
	}
	a, elsewhere, err := b.decideOn(ctx, "look at "+resource.String(), b.scripts.attend, resource, args...)
	if err != nil || elsewhere != nil {
		return 0, err
	}
	var now, expires int64
	if err := parseNumbers([]string{a.value(0), a.value(1)}, &now, &expires); err != nil {
		return 0, err
	}
	for i, name := range names {
		switch status, header, details := a.value(2+3*i), a.value(3+3*i), a.value(4+3*i); {
		case name.id == "" || status == "waits":
		case status == "has":
			lock, err := b.lockIn(header, details, resource)
			b.turns.answer(name, lock, err)
		case status == "ended":
			if r := b.turns.requestOf(name); r != nil {
				b.turns.answer(name, nil, endedRequestError(r))
			}
		default:
			at := 2 + 3*len(names)
			b.turns.answer(name, nil, b.missedError(ctx, resource, name, a.value(at), a.value(at+1)))
		}
	}
	if expires == 0 {
		return 0, nil
	}
	return max(time.Duration(expires-now)*time.Microsecond, time.Millisecond), nil
}

// waitingArgs are what a request tells the script acquire that waits, itself or by
// a detached waiter.
func (b *RedisBackend) waitingArgs(waits, detached bool) []any {
	config := b.config.Load()
	aging := strconv.FormatInt(config.PriorityAgingInterval.Milliseconds(), 10)
	switch {
	case waits:
		return []any{config.MaxQueueSize, aging, b.process, config.WaiterLiveness.Microseconds()}
	case detached:
		return []any{config.MaxQueueSize, aging, "", 0}
	}
	return []any{0, 0, "", 0}
}

// missedError is the answer to a call that waits no more and has not heard why, given
// the lock that is held: its owner may have that by another request.
func (b *RedisBackend) missedError(ctx context.Context, resource enhanced.ResourceIdentifier, name requestName, header, details string) error {
	if r := b.turns.requestOf(name); r != nil && header != "" {
		holder, err := b.lockIn(header, details, resource)
		if err == nil && holder.Owner == r.Owner().String() {
			return enhanced.NewHeldError(resource, holder)
		}
	}
	return b.goneError(ctx, resource, name.id)
}
