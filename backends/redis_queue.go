package backends

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// The queue of a resource is in the store, so all processes see the same one.
// The call of a waiter is in one process, which hears of its turn by a channel of
// its own, and looks for itself now and then, see redis_calls.go.

// AcquireLock takes the lock, or waits for its turn when the queue is enabled.
// See [enhanced.Backend].
func (b *RedisBackend) AcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	config := b.config.Load()
	if !config.EnablePriorityQueue {
		lock, acquired, err := b.TryAcquireLock(ctx, request)
		if err == nil && !acquired {
			return nil, enhanced.NewHeldError(lock.Resource, lock)
		}
		return lock, err
	}
	r, err := b.normalized(config, request)
	if err != nil {
		return nil, err
	}
	return b.turns.acquire(ctx, config.QueueTimeout, r)
}

// redisQueue is the store as turns need it.
type redisQueue struct{ *RedisBackend }

func (b redisQueue) ask(ctx context.Context, r *enhanced.EnhancedLockRequest) (acquisition, error) {
	if err := b.listen(ctx); err != nil {
		return acquisition{}, err
	}
	a, err := b.acquire(ctx, r, true)
	if err == nil && a.granted {
		b.turns.answer(nameOf(r), a.lock, nil)
	}
	return a, err
}

func (b redisQueue) leave(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (departure, error) {
	a, err := b.step(ctx, "leave the queue for "+r.Resource.String(), b.scripts.leave,
		enhanced.RepositoryTag(r.Resource.Namespace), r.Resource.Namespace, nil, r.Resource.Key(), r.ID, event, r.Owner().String(), b.process)
	if err != nil {
		return departure{}, err
	}
	var left departure
	left.ended = a.status == "ended"
	switch a.status {
	case "has":
		left.lock, err = b.lockIn(a.value(0), a.value(1), r.Resource)
	case "left":
		left.number, _ = strconv.Atoi(a.value(0)) //nolint:errcheck // a script counts
		left.of, _ = strconv.Atoi(a.value(1))     //nolint:errcheck // as above
		if a.value(2) != "" {
			left.holder, _ = b.lockIn(a.value(2), a.value(3), r.Resource) //nolint:errcheck // then it is not named
		}
	}
	return left, err
}

func (b redisQueue) giveBack(ctx context.Context, lock *enhanced.EnhancedLock) error {
	_, err := b.Release(ctx, enhanced.ReleaseRequest{LockID: lock.ID, Owner: lock.Owner, Reason: deserted})
	return err
}

// CancelRequest takes an owner's requests for a resource out of the queue. See
// [enhanced.Backend].
func (b *RedisBackend) CancelRequest(ctx context.Context, resource enhanced.ResourceIdentifier, owner, actor string) error {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return err
	}
	if _, err := enhanced.ParseOwner(owner); err != nil {
		return err
	}
	for some := false; ; some = true {
		a, err := b.step(ctx, "cancel a request for "+resource.String(), b.scripts.cancel,
			enhanced.RepositoryTag(resource.Namespace), resource.Namespace, nil, resource.Key(), owner, actor)
		switch {
		case err != nil:
			return err
		case a.status == "missing" && !some:
			return enhanced.NewNotWaitingError(resource, owner)
		case a.status != "more":
			return nil
		}
	}
}

// GetQueueStatus describes the waiters. See [enhanced.Backend].
func (b *RedisBackend) GetQueueStatus(ctx context.Context) (*enhanced.QueueStatus, error) {
	const operation = "queue status"
	var mu sync.Mutex
	found := make(map[string][]*enhanced.EnhancedLockRequest)
	err := b.eachRepository(ctx, operation, func(ctx context.Context, tag string) error {
		requests, err := b.pending(ctx, operation, tag)
		mu.Lock()
		defer mu.Unlock()
		found[tag] = requests
		return ignoreWrongType(err)
	})
	if err != nil {
		return nil, err
	}
	status := &enhanced.QueueStatus{QueuesByPriority: make(map[enhanced.Priority]int)}
	for _, tag := range sortedKeys(found) {
		for _, request := range found[tag] {
			status.Add(request)
		}
	}
	return status, nil
}

// pending returns the requests that wait in a repository, queue by queue.
func (b *RedisBackend) pending(ctx context.Context, operation, tag string) (requests []*enhanced.EnhancedLockRequest, err error) {
	for after := ""; ; {
		reply, err := b.run(ctx, operation, b.scripts.line, b.keys.reading(tag), after, redisListPage, b.detachedTime())
		if err != nil {
			return nil, err
		}
		if len(reply) < 2 {
			return nil, enhanced.NewBackendError(operation, fmt.Errorf("script line answered %d parts", len(reply)))
		}
		for pair := range slices.Chunk(reply[2:], 2) {
			w, err := decodeRedisWaiter(reply[0], pair[0], pair[1])
			if err != nil {
				b.logger.Err("a waiter in %q: %v", b.keys.state(tag), err)
				continue
			}
			requests = append(requests, w.pending())
		}
		if after = reply[1]; after == "" {
			return requests, nil
		}
	}
}

// detachedTime is for how many microseconds detached waiters wait, 0 for ever, -1
// while there is no queue.
func (b *RedisBackend) detachedTime() int64 {
	config := b.config.Load()
	if !config.EnablePriorityQueue {
		return -1
	}
	return config.DetachedQueueTimeout.Microseconds()
}

// redisWaiter is a waiter as the state has it, see scripts/queue.lua.
type redisWaiter struct {
	waiter
	rank, process string
	// given is the token of a lock that the request of a set was given before, or "".
	given string
}

// waiterLines is how many lines a waiter has before the details of its lock.
const waiterLines = 9

func decodeRedisWaiter(repository, request, text string) (*redisWaiter, error) {
	lines := strings.SplitN(text, "\n", waiterLines+1)
	if len(lines) != waiterLines+1 {
		return nil, fmt.Errorf("waiter %q has %d lines", request, len(lines))
	}
	resource, err := enhanced.ParseResourceKey(repository, lines[0])
	if err != nil {
		return nil, err
	}
	payload, metadata, _ := cutLine(lines[9])
	record := &waiterRecord{Request: request, Owner: lines[2], Lock: []byte(payload), Detached: lines[7] == ""}
	priority := int64(0)
	if err := parseNumbers([]string{lines[3], lines[4], lines[5]}, &priority, &record.Enqueued, &record.Lease); err != nil {
		return nil, fmt.Errorf("waiter %q: %w", request, err)
	}
	record.Priority = enhanced.Priority(priority)
	given, err := record.readMark(lines[6])
	if err != nil {
		return nil, fmt.Errorf("waiter %q: %w", request, err)
	}
	if metadata != "" {
		if err := decode([]byte(metadata), &record.Metadata); err != nil {
			return nil, err
		}
	}
	if err := record.check(); err != nil {
		return nil, err
	}
	return &redisWaiter{waiter: waiter{waiterRecord: record, resource: resource}, rank: lines[1], process: lines[7], given: given}, nil
}

// readMark reads the line of a waiter that says of which set it is, see
// scripts/whole.lua, and returns the last part of that, a token.
func (w *waiterRecord) readMark(line string) (given string, err error) {
	parts := strings.Split(line, "\t")
	switch len(parts) {
	case 1:
		return "", nil
	case 5:
	case 6:
		given = parts[5]
	default:
		return "", fmt.Errorf("%q is no mark of a set", line)
	}
	if parts[2] == "" || !isToken(given) {
		return "", fmt.Errorf("%q is no mark of a set", line)
	}
	size, err := strconv.Atoi(parts[1])
	w.Set = &setMark{parts[2], size}
	return given, err
}
