package backends

import (
	"context"
	"errors"
	"strconv"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// CleanupExpiredLocks ends every lease that is due. What one repository has
// wrong keeps no other's leases. See [enhanced.Backend].
func (b *RedisBackend) CleanupExpiredLocks(ctx context.Context) (int, error) {
	const operation = "end leases"
	tags, err := b.tags(ctx, operation)
	if err != nil {
		return 0, err
	}
	ended := 0
	var problems []error
	for _, tag := range tags {
		n, err := b.cleanUp(ctx, operation, tag)
		ended += n
		if err == nil {
			continue
		}
		problems = append(problems, err)
		if ctx.Err() != nil || errors.Is(err, enhanced.ErrClosed) {
			break
		}
	}
	return ended, errors.Join(problems...)
}

// cleanUp ends the due leases of a repository and trims its log and memory.
func (b *RedisBackend) cleanUp(ctx context.Context, operation, tag string) (int, error) {
	ended, skip := 0, 0
	for {
		due, err := b.due(ctx, operation, tag, skip)
		if err != nil {
			return ended, err
		}
		if len(due.entries) == 0 {
			return ended, b.sweep(ctx, operation, tag, due.name)
		}
		a, err := b.settleAll(ctx, operation, due.entries)
		if err != nil {
			return ended, err
		}
		ended += a.expired
		for i := 0; i < len(a.values); i += 3 {
			if a.values[i] == "unreadable" {
				skip++ // it stays due
			}
		}
	}
}

// sweep trims the log and memory of a repository, and takes out of its queue what
// is over.
func (b *RedisBackend) sweep(ctx context.Context, operation, tag, name string) error {
	for after := ""; ; {
		a, err := b.step(ctx, operation, b.scripts.sweep, tag, name, nil, redisStep, after)
		if err != nil {
			return err
		}
		if after = a.value(0); after == "" {
			return nil
		}
	}
}

// due is what is due in a repository.
type due struct {
	name string
	// next is the time until the next deadline, if there is one.
	next    time.Duration
	found   bool
	entries []indexEntry
}

// due reads what is due in a repository, after the first skip.
func (b *RedisBackend) due(ctx context.Context, operation, tag string, skip int) (due, error) {
	reply, err := b.run(ctx, operation, b.scripts.due, []string{b.keys.state(tag), b.keys.key(tag, "deadlines")}, skip, redisStep)
	if err != nil {
		return due{}, err
	}
	d := due{name: reply[0]}
	if reply[1] != "" {
		micros, err := strconv.ParseInt(reply[1], 10, 64)
		if err != nil {
			return due{}, enhanced.NewBackendError(operation, err)
		}
		d.next, d.found = time.Duration(micros)*time.Microsecond, true
	}
	for _, key := range reply[2:] {
		d.entries = append(d.entries, newIndexEntry(d.name, key, key))
	}
	return d, nil
}

// settleAll does what is due on resources of one repository.
func (b *RedisBackend) settleAll(ctx context.Context, operation string, entries []indexEntry) (answer, error) {
	name := entries[0].resource.Namespace
	args := make([]any, len(entries))
	resources := make([]enhanced.ResourceIdentifier, len(entries))
	for i, entry := range entries {
		args[i], resources[i] = entry.key, entry.resource
	}
	return b.step(ctx, operation, b.scripts.settle, enhanced.RepositoryTag(name), name, b.stockKeys(resources...), args...)
}

// settleOne does what is due on a resource.
func (b *RedisBackend) settleOne(ctx context.Context, operation string, resource enhanced.ResourceIdentifier) (answer, error) {
	return b.settleAll(ctx, operation, []indexEntry{{resource: resource, key: resource.Key()}})
}
