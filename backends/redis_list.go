package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"golang.org/x/sync/errgroup"
)

// scanPage is how many keys, or fields, a server is asked for at a time: few
// enough to take well under 10 ms.
const scanPage = 1000

// redisListPage is how many locks a server is asked for at a time.
const redisListPage = 500

// scanKeys returns the keys of one server that match a pattern. It never uses
// KEYS, which holds up the server.
func (b *RedisBackend) scanKeys(ctx context.Context, node redis.Cmdable, pattern string) ([]string, error) {
	var keys []string
	for cursor := uint64(0); ; {
		err := b.guardedScan(ctx, node, func() error {
			page, next, err := node.Scan(ctx, cursor, pattern, scanPage).Result()
			keys, cursor = append(keys, page...), next
			return err
		})
		if err != nil {
			return nil, err
		}
		if cursor == 0 {
			slices.Sort(keys)
			return slices.Compact(keys), nil // SCAN can answer a key twice
		}
	}
}

// tags returns the tags of all repositories, on every shard, in order.
func (b *RedisBackend) tags(ctx context.Context, operation string) ([]string, error) {
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	return call(ctx, b, operation, false, func(ctx context.Context) ([]string, error) {
		keys, err := b.scanAll(ctx, globEscaped(b.keys.prefix)+"{*}:state")
		tags := make([]string, 0, len(keys))
		for _, key := range keys {
			if tag, _, ok := b.keys.split(key); ok {
				tags = append(tags, tag)
			}
		}
		return tags, err
	})
}

// scanAll returns the keys of all servers that match a pattern, in order.
func (b *RedisBackend) scanAll(ctx context.Context, pattern string) ([]string, error) {
	var mu sync.Mutex
	var all []string
	err := b.eachPrimary(ctx, func(ctx context.Context, node redis.Cmdable) error {
		keys, err := b.scanKeys(ctx, node, pattern)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, keys...)
		return err
	})
	slices.Sort(all)
	return slices.Compact(all), err // a slot that moves can be on two servers
}

// readers is how many repositories are read at a time.
const readers = 8

// eachRepository calls fn for all repositories, some at a time.
func (b *RedisBackend) eachRepository(ctx context.Context, operation string, fn func(ctx context.Context, tag string) error) error {
	tags, err := b.tags(ctx, operation)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, tag := range tags {
		group.Go(func() error { return fn(ctx, tag) })
	}
	return group.Wait()
}

// ListRepositories returns the repositories that have a log. See
// [enhanced.Backend].
func (b *RedisBackend) ListRepositories(ctx context.Context) ([]string, error) {
	const operation = "list repositories"
	var mu sync.Mutex
	var names []string
	err := b.eachRepository(ctx, operation, func(ctx context.Context, tag string) error {
		reply, err := b.run(ctx, operation, b.scripts.owned, b.keys.reading(tag), "", 0)
		if err != nil {
			return ignoreWrongType(err)
		}
		if enhanced.RepositoryTag(reply[0]) == tag {
			mu.Lock()
			defer mu.Unlock()
			names = append(names, reply[0])
		}
		return nil
	})
	return names, err
}

// ignoreWrongType returns nil for the error of a repository that has a key of
// another type: it harms only itself.
func ignoreWrongType(err error) error {
	if hasErrorPrefix(err, "WRONGTYPE") {
		return nil
	}
	return err
}

// census is lock records of a repository or of all of them, and what could not
// be read. Those whose lease has ended are among them.
type census struct {
	records    map[enhanced.ResourceIdentifier]*redisRecord
	unreadable []string
}

// add adds the records of a repository.
func (c *census) add(other census) {
	for resource, r := range other.records {
		c.records[resource] = r
	}
	c.unreadable = append(c.unreadable, other.unreadable...)
}

// records reads all lock records of a repository. Each knows whether its lease
// has ended by the clock of its own server.
func (b *RedisBackend) records(ctx context.Context, operation, tag string) (census, error) {
	c := census{records: make(map[enhanced.ResourceIdentifier]*redisRecord)}
	for after := ""; ; {
		reply, err := b.run(ctx, operation, b.scripts.list, b.keys.reading(tag), after, redisListPage)
		if hasErrorPrefix(err, "WRONGTYPE") {
			c.unreadable = append(c.unreadable, b.keys.key(tag, "*"))
			return c, nil
		}
		if err != nil {
			return c, err
		}
		if len(reply) < 4 || len(reply)%3 != 1 {
			return c, enhanced.NewBackendError(operation, fmt.Errorf("script list answered %d parts", len(reply)))
		}
		now, err := strconv.ParseInt(reply[0], 10, 64)
		if err != nil {
			return c, enhanced.NewBackendError(operation, err)
		}
		name := reply[1]
		if name != "" && enhanced.RepositoryTag(name) != tag {
			c.unreadable = append(c.unreadable, b.keys.state(tag))
			return c, nil
		}
		for i := 4; i < len(reply); i += 3 {
			c.decode(b.keys.state(tag), name, reply[i], reply[i+1], reply[i+2], now)
		}
		if after = reply[3]; after != "" {
			continue
		}
		if reply[2] == "" {
			slices.Sort(c.unreadable)
			c.unreadable = slices.Compact(c.unreadable) // several members may lead to one
			return c, nil
		}
		return c, b.strays(ctx, operation, tag, name, now, &c)
	}
}

// decode adds a record.
func (c *census) decode(key, repository, field, header, details string, now int64) {
	resource, err := enhanced.ParseResourceKey(repository, field)
	var r *redisRecord
	if err == nil {
		r, err = decodeRedisRecord(header, details)
	}
	if err != nil {
		c.unreadable = append(c.unreadable, key+" "+field)
		return
	}
	r.ended = r.expiredAt(now)
	c.records[resource] = r
}

// strays adds the records to which nothing leads from their owners.
func (b *RedisBackend) strays(ctx context.Context, operation, tag, name string, now int64, c *census) error {
	s, err := b.readState(ctx, operation, tag)
	if err != nil {
		return err
	}
	for key, header := range s.locks {
		if resource, err := enhanced.ParseResourceKey(name, key); err != nil || c.records[resource] == nil {
			c.decode(b.keys.state(tag), name, key, header, s.details[key], now)
		}
	}
	slices.Sort(c.unreadable)
	c.unreadable = slices.Compact(c.unreadable)
	return nil
}

func (b *RedisBackend) census(ctx context.Context, operation string) (census, error) {
	all := census{records: make(map[enhanced.ResourceIdentifier]*redisRecord)}
	var mu sync.Mutex
	err := b.eachRepository(ctx, operation, func(ctx context.Context, tag string) error {
		one, err := b.records(ctx, operation, tag)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all.add(one)
		return nil
	})
	return all, err
}

// ListLocks returns all held locks. See [enhanced.Backend].
func (b *RedisBackend) ListLocks(ctx context.Context) ([]*enhanced.EnhancedLock, error) {
	const operation = "list locks"
	all, err := b.census(ctx, operation)
	if err != nil {
		return nil, err
	}
	followed, err := b.followAll(ctx, operation, "", all.records)
	if err != nil {
		return nil, err
	}
	if followed.changed {
		if all, err = b.census(ctx, operation); err != nil {
			return nil, err
		}
	}
	locks := make([]*enhanced.EnhancedLock, 0, len(all.records)+len(followed.unrecorded))
	for resource, r := range all.records {
		if r.ended {
			continue
		}
		lock, err := b.lockOf(r, resource)
		if err != nil {
			all.unreadable = append(all.unreadable, b.recordName(resource))
			continue
		}
		locks = append(locks, lock)
	}
	locks = append(locks, followed.unrecorded...)
	for _, name := range append(all.unreadable, followed.unreadable...) {
		b.logger.Err("%s can't be read; it counts as held", name)
	}
	for _, v := range followed.leftovers {
		b.logger.Warn("%s is also held by %s, from before Atlantis v0.40 in %q", v.resource, enhanced.ProjectLockOwner(*v.original), v.key)
	}
	slices.SortFunc(locks, byResource)
	return locks, nil
}

// recordName names a lock record for people.
func (b *RedisBackend) recordName(resource enhanced.ResourceIdentifier) string {
	return b.keys.state(enhanced.RepositoryTag(resource.Namespace)) + " " + resource.Key()
}

// NextDeadline returns how long it is until the next lease ends. See
// [enhanced.Backend].
func (b *RedisBackend) NextDeadline(ctx context.Context) (next time.Duration, found bool, err error) {
	const operation = "look up the next deadline"
	var mu sync.Mutex
	err = b.eachRepository(ctx, operation, func(ctx context.Context, tag string) error {
		d, err := b.due(ctx, operation, tag, 0)
		if err != nil {
			return ignoreWrongType(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if d.found && (!found || d.next < next) {
			next, found = d.next, true
		}
		return nil
	})
	return next, found && err == nil, err
}

// GetStats returns the statistics. See [enhanced.Backend].
func (b *RedisBackend) GetStats(ctx context.Context) (*enhanced.BackendStats, error) {
	stats := newStats(&b.recorder)
	stats.OpenCircuits = b.openCircuits()
	err := b.HealthCheck(ctx)
	if err == nil {
		err = b.countLocks(ctx, stats)
	}
	if err == nil {
		var status *enhanced.QueueStatus
		if status, err = b.GetQueueStatus(ctx); err == nil {
			stats.QueueDepth = status.Size
		}
	}
	stats.HealthScore = enhanced.HealthScore(stats, err)
	return stats, err
}

// countLocks counts without writing: statistics are also asked for while stock
// decides.
func (b *RedisBackend) countLocks(ctx context.Context, stats *enhanced.BackendStats) error {
	const operation = "count locks"
	all, err := b.census(ctx, operation)
	if err != nil {
		return err
	}
	var values []stockValue
	if !b.isCluster() {
		if values, err = call(ctx, b, operation, false, func(ctx context.Context) ([]stockValue, error) { return b.stockValues(ctx, "") }); err != nil {
			return err
		}
	}
	stock := make(map[enhanced.ResourceIdentifier]string, len(values))
	for _, v := range values {
		if v.problem != "" {
			all.unreadable = append(all.unreadable, v.key)
			continue
		}
		if v.isOld() && slices.ContainsFunc(values, func(other stockValue) bool { return other.key == stockKey(v.resource) }) {
			continue // counted under the present key
		}
		stock[v.resource] = v.value
		r, ours := all.records[v.resource]
		if !ours || r.ended && r.payload != v.value {
			stats.ActiveLocks++
		}
	}
	for resource, r := range all.records {
		value, mirrored := stock[resource]
		if value != r.payload {
			if _, err := decodeProjectLock([]byte(r.payload)); err != nil {
				all.unreadable = append(all.unreadable, b.recordName(resource))
				continue
			}
		}
		released := r.Mirror == "m" && !mirrored && b.mirrors(resource)
		if !r.ended && !released {
			stats.ActiveLocks++
		}
	}
	stats.UnreadableRecords = all.unreadable
	return nil
}

// execute runs a pipeline. That a key is missing or has another type is the
// answer to one command, for its caller to look at; anything else fails all.
func execute(ctx context.Context, pipe redis.Pipeliner) error {
	commands, err := pipe.Exec(ctx)
	for _, command := range commands {
		if err := command.Err(); err != nil && !errors.Is(err, redis.Nil) && !hasErrorPrefix(err, "WRONGTYPE") {
			return err
		}
	}
	if errors.Is(err, redis.Nil) || hasErrorPrefix(err, "WRONGTYPE") {
		return nil
	}
	return err
}

// cutLine cuts a text at its first line break.
func cutLine(text string) (line, rest string, found bool) { return strings.Cut(text, "\n") }
