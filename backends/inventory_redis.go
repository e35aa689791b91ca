package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// statusPattern is what the keys of pull statuses look like.
const statusPattern = "*::*::*"

// ReadRedisInventory reads a server, one behind Sentinel, or a cluster, whatever
// its version and however it is set up. Others may go on using it meanwhile:
// what changes while it is read may be in the answer or not. One of stock Atlantis
// is as good, and an empty one is taken for such. The prefix is that of the keys.
func ReadRedisInventory(ctx context.Context, client redis.UniversalClient, prefix string) (*Inventory, error) {
	config := enhanced.DefaultConfig()
	config.Backend, config.RedisKeyPrefix = enhanced.BackendRedis, prefix
	b := NewRedisBackend(client, config, nil)
	defer func() { _ = b.Close() }() // it never fails
	if b.invalid != nil {
		return nil, b.invalid
	}
	b.checked.Store(true) // the check would write
	found := newInventory()
	switch layout, err := client.Get(ctx, layoutKey).Result(); {
	case errors.Is(err, redis.Nil):
		found.Stock = true
	case err != nil:
		return nil, err
	case layout != b.keys.layout():
		return nil, fmt.Errorf("the server is in use with layout and prefix %q, and this is %q", layout, b.keys.layout())
	}
	if err := b.addLocks(ctx, found); err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		pattern string
		add     func(key, value string, err error)
	}{
		{statusPattern, func(key, value string, err error) {
			switch {
			case err != nil:
				found.problem(key, "%v", err)
			default:
				found.addStatus(key, key, value)
			}
		}},
		{commandLockPrefix + "*/lock", func(key, value string, err error) {
			if err != nil {
				found.problem(key, "%v", err)
				return
			}
			found.addCommandLock(key, strings.TrimPrefix(key, commandLockPrefix), value)
		}},
	} {
		keys, err := b.scanAll(ctx, kind.pattern)
		if err != nil {
			return nil, err
		}
		if err := b.values(ctx, keys, kind.add); err != nil {
			return nil, err
		}
	}
	return found.finish(), nil
}

// values reads keys of any server.
func (b *RedisBackend) values(ctx context.Context, keys []string, add func(key, value string, err error)) error {
	for page := range slices.Chunk(keys, scanPage) {
		pipe := b.client.Pipeline()
		gets := make([]*redis.StringCmd, len(page))
		for i, key := range page {
			gets[i] = pipe.Get(ctx, key)
		}
		if err := execute(ctx, pipe); err != nil {
			return err
		}
		for i, get := range gets {
			if value, err := get.Result(); !errors.Is(err, redis.Nil) {
				add(page[i], value, err)
			}
		}
	}
	return nil
}

// addLocks adds our own records, and then what stock has beside them.
func (b *RedisBackend) addLocks(ctx context.Context, found *Inventory) error {
	const operation = "read an inventory"
	// Stock's keys first: a lock of ours whose copy was gone before it was read
	// has been released by stock.
	keys, err := b.scanAll(ctx, stockPrefix+"*")
	if err != nil {
		return err
	}
	var values []stockValue
	byKey := make(map[string]string, len(keys))
	if err := b.values(ctx, keys, func(key, value string, err error) {
		values = append(values, readStockValue(key, value, err))
		byKey[key] = value
	}); err != nil {
		return err
	}
	var tags []string
	if !found.Stock {
		if tags, err = b.tags(ctx, operation); err != nil {
			return err
		}
	}
	claimed := make(map[string]bool)
	for _, tag := range tags {
		if err := b.addRepository(ctx, found, tag, byKey, claimed); err != nil {
			return err
		}
	}
	values = slices.DeleteFunc(values, func(v stockValue) bool { return claimed[v.key] })
	found.addStock(values, stockPrefix)
	return nil
}

// addRepository adds one repository, and claims the keys of copies.
func (b *RedisBackend) addRepository(ctx context.Context, found *Inventory, tag string, stock map[string]string, claimed map[string]bool) error {
	const operation = "read an inventory"
	state := b.keys.state(tag)
	fields, err := b.client.HMGet(ctx, state, "name", countersField).Result()
	if hasErrorPrefix(err, "WRONGTYPE") {
		found.problem(state, "it is no repository; its locks are not carried")
		return nil
	}
	if err != nil {
		return err
	}
	name, _ := fields[0].(string)
	text, _ := fields[1].(string)
	counters := parseCounters(text)
	if enhanced.RepositoryTag(name) != tag {
		found.problem(state, "the name of the repository can't be read; its locks are not carried")
		return nil
	}
	token, waiters := counters["token"], counters["waiters"]
	if text != "" && counters == nil {
		found.problem(state, "its counters can't be read; its locks are not carried")
		return nil
	}
	if token != "" {
		n, err := strconv.ParseInt(token, 10, 64)
		if err != nil {
			found.problem(state, "its token is no number; its locks are not carried")
			return nil
		}
		found.Tokens[name] = n
	}
	n, _ := strconv.Atoi(waiters) // none where it can't be read
	found.Waiters += n
	all, err := b.records(ctx, operation, tag)
	if err != nil {
		return err
	}
	node, err := b.nodeOf(ctx, state)
	if err != nil {
		return err
	}
	now, err := node.Time(ctx).Result()
	if err != nil {
		return err
	}
	for _, record := range all.unreadable {
		found.problem(record, unreadableDetail)
		// What stock has beside it may be its copy, or may not: the owner is unknown.
		if resource, err := enhanced.ParseResourceKey(name, strings.TrimPrefix(record, state+" ")); err == nil {
			claimed[stockKey(resource)] = true
		}
	}
	for resource, r := range all.records {
		copied, mirrored := stock[stockKey(resource)]
		mirrored = mirrored && hasStockKey(resource)
		if mirrored && copied == r.payload {
			claimed[stockKey(resource)] = true
		}
		if r.ended || r.Mirror == "m" && !mirrored && b.mirrors(resource) {
			continue
		}
		lock, err := r.lock(tag, resource)
		if err != nil {
			found.problem(b.recordName(resource), unreadableDetail)
			claimed[stockKey(resource)] = true
			continue
		}
		found.add(lock, r.Request, r.Expires, now.UnixMicro())
	}
	return nil
}
