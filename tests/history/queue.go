package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// AcquireInTurn is AcquireLock on a store with queues: it waits. The request
// must have an ID, and name its lease or NoTimeout.
func (c *Client) AcquireInTurn(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	if request.Timeout == 0 || request.ID == "" {
		return nil, errNoLease
	}
	op := Operation{Kind: Acquire, Owner: request.Owner().String(), Request: request.ID, InTurn: true}
	if request.Timeout != enhanced.NoTimeout {
		op.Lease = request.Timeout
	}
	var lock *enhanced.EnhancedLock
	var err error
	op = c.call(op, func() error {
		lock, err = c.backend.AcquireLock(ctx, request)
		return err
	})
	if op.Answer == Expired || op.Answer == Nothing && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		// It may have had the lock before it heard of that, or before it was given
		// back for it.
		op.Answer = Unknown
	}
	shown := lock
	if op.Answer == Held {
		shown = holderOf(err)
	}
	c.keep(op, request.Resource, shown)
	return lock, err
}

// queued is a waiter in a log that is played.
type queued struct {
	request, owner string
	priority       enhanced.Priority
	sequence       uint64
	// moved says that a person has put it before those of higher priority.
	moved bool
}

// JudgeQueue plays the queues of a repository's log, from its beginning, where
// priorities are strict and those of the requests are known. Whoever gets a lock
// that was freed is the first of those who wait for it, nobody waits for what is
// free unless it is reserved, nobody leaves a queue in which he is not, and what
// is reserved is taken by its owner alone.
func JudgeQueue(records []*enhanced.LogRecord, priorities map[string]enhanced.Priority) (problems []string) {
	lines := make(map[string][]queued)
	reserved := make(map[string]string) // for whom a resource is kept
	var freed string                    // the resource that has to be handed over next
	for _, r := range records {
		key := r.Resource.Key()
		report := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("record %d, %s: ", r.Sequence, r.Type)+fmt.Sprintf(format, args...))
		}
		if freed != "" && len(lines[freed]) > 0 && freed != key {
			report("%s is free, and %s waits for it", freed, lines[freed][0].owner)
		}
		freed = ""
		at := slices.IndexFunc(lines[key], func(q queued) bool { return q.request == r.RequestID })
		switch {
		case r.Type == enhanced.EventQueued:
			q := queued{request: r.RequestID, owner: r.Waiter, priority: priorities[r.RequestID], sequence: r.Sequence}
			behind := slices.IndexFunc(lines[key], func(other queued) bool { return !other.moved && other.priority < q.priority })
			if at >= 0 {
				report("%s waits already", r.RequestID)
			}
			if behind < 0 {
				behind = len(lines[key])
			}
			lines[key] = slices.Insert(lines[key], behind, q)
			continue
		case r.Type == enhanced.EventMoved && at >= 0:
			moved := lines[key][at]
			moved.moved = true
			lines[key] = slices.Insert(slices.Delete(lines[key], at, at+1), 0, moved)
			continue
		case r.Type == enhanced.EventReservationEnded:
			if reserved[key] != r.Waiter {
				report("nothing is reserved for %s", r.Waiter)
			}
			delete(reserved, key)
			freed = key
			continue
		case enhanced.IsQueueEvent(r.Type), r.Type == enhanced.EventGranted:
			if at < 0 {
				report("%s does not wait", r.RequestID)
				continue
			}
			if r.Type == enhanced.EventGranted && at > 0 {
				report("%s was given it before %s", lines[key][at].owner, lines[key][0].owner)
			}
			lines[key] = slices.Delete(lines[key], at, at+1)
		case r.Type == enhanced.EventAcquired && reserved[key] == r.After.Owner:
			delete(reserved, key)
		case r.Type == enhanced.EventAcquired && len(lines[key]) > 0:
			report("%s waits for it", lines[key][0].owner)
		}
		if owner, kept := reserved[key]; kept && r.After != nil {
			report("it is reserved for %s", owner)
		}
		switch {
		case r.Type == enhanced.EventReserved, r.Reason == enhanced.ReasonUncleanRelease:
			reserved[key] = r.Before.Owner
		case r.Before != nil && r.After == nil:
			freed = key
		}
	}
	for key, line := range lines {
		if len(line) > 0 {
			problems = append(problems, fmt.Sprintf("at the end %d wait for %s", len(line), key))
		}
	}
	return problems
}
