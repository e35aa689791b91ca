package backends

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// scanPage is how many keys, or fields, a server is asked for at a time: few
// enough to take well under 10 ms.
const scanPage = 1000

// scanKeys returns the keys of one server that match a pattern. It never uses
// KEYS, which holds up the server.
func scanKeys(ctx context.Context, node redis.Cmdable, pattern string) ([]string, error) {
	var keys []string
	for cursor := uint64(0); ; {
		page, next, err := node.Scan(ctx, cursor, pattern, scanPage).Result()
		if err != nil {
			return nil, err
		}
		keys = append(keys, page...)
		if cursor = next; cursor == 0 {
			slices.Sort(keys)
			return slices.Compact(keys), nil // SCAN can answer a key twice
		}
	}
}

// repositories returns the names of all repositories, on every shard, by tag.
func (b *RedisBackend) repositories(ctx context.Context, operation string) (map[string]string, error) {
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	return call(ctx, b, operation, false, b.scanRepositories)
}

func (b *RedisBackend) scanRepositories(ctx context.Context) (map[string]string, error) {
	var mu sync.Mutex
	var tags []string
	err := b.eachPrimary(ctx, func(ctx context.Context, node redis.Cmdable) error {
		keys, err := scanKeys(ctx, node, globEscaped(b.keys.prefix)+"{*}:meta")
		mu.Lock()
		defer mu.Unlock()
		for _, key := range keys {
			if tag, _, ok := b.keys.split(key); ok {
				tags = append(tags, tag)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	names := make(map[string]string, len(tags))
	for page := range slices.Chunk(tags, scanPage) {
		pipe := b.client.Pipeline()
		gets := make([]*redis.StringCmd, len(page))
		for i, tag := range page {
			gets[i] = pipe.HGet(ctx, b.keys.meta(tag), "name")
		}
		if err := execute(ctx, pipe); err != nil {
			return nil, err
		}
		for i, get := range gets {
			if name, err := get.Result(); err == nil && enhanced.RepositoryTag(name) == page[i] {
				names[page[i]] = name
			}
		}
	}
	return names, nil
}

// ListRepositories returns the repositories that have a log. See
// [enhanced.Backend].
func (b *RedisBackend) ListRepositories(ctx context.Context) ([]string, error) {
	repositories, err := b.repositories(ctx, "list repositories")
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(repositories))
	for _, name := range repositories {
		names = append(names, name)
	}
	return names, nil
}

// records reads all lock records of a repository, those of ended leases
// included. It returns the names of those that can't be read.
func (b *RedisBackend) records(ctx context.Context, operation, tag, name string) (map[enhanced.ResourceIdentifier]*redisRecord, []string, error) {
	fields, err := call(ctx, b, operation, false, func(ctx context.Context) (map[string]string, error) {
		all := make(map[string]string)
		for cursor := uint64(0); ; {
			page, err := atKey(ctx, b, b.keys.locks(tag), func(node redis.UniversalClient) (page []string, err error) {
				page, cursor, err = node.HScan(ctx, b.keys.locks(tag), cursor, "", scanPage).Result()
				return page, err
			})
			if hasErrorPrefix(err, "WRONGTYPE") {
				return map[string]string{"?": ""}, nil
			}
			if err != nil {
				return nil, err
			}
			for i := 0; i+1 < len(page); i += 2 {
				all[page[i]] = page[i+1]
			}
			if cursor == 0 {
				return all, nil
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	records := make(map[enhanced.ResourceIdentifier]*redisRecord, len(fields))
	var unreadable []string
	for field, raw := range fields {
		if field == "" {
			continue // keeps the hash from vanishing
		}
		resource, err := enhanced.ParseResourceKey(name, field)
		var r *redisRecord
		if err == nil {
			r, err = decodeRedisRecord(raw)
		}
		if err != nil {
			unreadable = append(unreadable, b.keys.locks(tag)+" "+field)
			continue
		}
		records[resource] = r
	}
	return records, unreadable, nil
}

// census is all lock records of a store, and what could not be read.
type census struct {
	records    map[enhanced.ResourceIdentifier]*redisRecord
	unreadable []string
}

func (b *RedisBackend) census(ctx context.Context, operation string) (census, error) {
	repositories, err := b.repositories(ctx, operation)
	if err != nil {
		return census{}, err
	}
	all := census{records: make(map[enhanced.ResourceIdentifier]*redisRecord)}
	for tag, name := range repositories {
		records, unreadable, err := b.records(ctx, operation, tag, name)
		if err != nil {
			return census{}, err
		}
		for resource, r := range records {
			all.records[resource] = r
		}
		all.unreadable = append(all.unreadable, unreadable...)
	}
	return all, nil
}

// ListLocks returns all held locks. See [enhanced.Backend].
func (b *RedisBackend) ListLocks(ctx context.Context) ([]*enhanced.EnhancedLock, error) {
	const operation = "list locks"
	all, err := b.census(ctx, operation)
	if err != nil {
		return nil, err
	}
	changed, unreadable, err := b.followAll(ctx, operation, "", all.records)
	if err != nil {
		return nil, err
	}
	if changed {
		if all, err = b.census(ctx, operation); err != nil {
			return nil, err
		}
	}
	now, err := call(ctx, b, operation, false, func(ctx context.Context) (int64, error) { return b.now(ctx, "") })
	if err != nil {
		return nil, err
	}
	locks := make([]*enhanced.EnhancedLock, 0, len(all.records))
	for resource, r := range all.records {
		if r.expiredAt(now) {
			continue
		}
		lock, err := b.lockOf(r, resource)
		if err != nil {
			all.unreadable = append(all.unreadable, b.recordName(resource))
			continue
		}
		locks = append(locks, lock)
	}
	for _, name := range append(all.unreadable, unreadable...) {
		b.logger.Err("%s can't be read; it counts as held", name)
	}
	slices.SortFunc(locks, byResource)
	return locks, nil
}

// recordName names a lock record for people.
func (b *RedisBackend) recordName(resource enhanced.ResourceIdentifier) string {
	return b.keys.locks(enhanced.RepositoryTag(resource.Namespace)) + " " + resource.Key()
}

// now is the time by the clock of the server that has a repository, or of any.
func (b *RedisBackend) now(ctx context.Context, tag string) (int64, error) {
	node, err := b.nodeOf(ctx, b.keys.meta(tag))
	if err != nil {
		return 0, err
	}
	at, err := node.Time(ctx).Result()
	return at.UnixMicro(), err
}

// NextDeadline returns how long it is until the next lease ends. See
// [enhanced.Backend].
func (b *RedisBackend) NextDeadline(ctx context.Context) (time.Duration, bool, error) {
	const operation = "look up the next deadline"
	repositories, err := b.repositories(ctx, operation)
	if err != nil {
		return 0, false, err
	}
	type next struct {
		at    int64
		found bool
		now   int64
	}
	n, err := call(ctx, b, operation, false, func(ctx context.Context) (next, error) {
		var n next
		pipe := b.client.Pipeline()
		var firsts []*redis.ZSliceCmd
		for tag := range repositories {
			firsts = append(firsts, pipe.ZRangeWithScores(ctx, b.keys.deadlines(tag), 0, 0))
		}
		if len(firsts) > 0 {
			if err := execute(ctx, pipe); err != nil {
				return n, err
			}
		}
		for _, first := range firsts {
			for _, z := range first.Val() {
				if member, _ := z.Member.(string); member != "" && (!n.found || int64(z.Score) < n.at) {
					n.at, n.found = int64(z.Score), true
				}
			}
		}
		var err error
		n.now, err = b.now(ctx, "")
		return n, err
	})
	return time.Duration(n.at-n.now) * time.Microsecond, n.found && err == nil, err
}

// GetQueueStatus describes the waiters. Nothing waits in this store yet.
func (b *RedisBackend) GetQueueStatus(ctx context.Context) (*enhanced.QueueStatus, error) {
	if err := b.HealthCheck(ctx); err != nil {
		return nil, err
	}
	return &enhanced.QueueStatus{QueuesByPriority: make(map[enhanced.Priority]int)}, nil
}

// GetStats returns the statistics. See [enhanced.Backend].
func (b *RedisBackend) GetStats(ctx context.Context) (*enhanced.BackendStats, error) {
	stats := newStats(&b.recorder)
	err := b.HealthCheck(ctx)
	if err == nil {
		err = b.countLocks(ctx, stats)
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
	now, err := call(ctx, b, operation, false, func(ctx context.Context) (int64, error) { return b.now(ctx, "") })
	if err != nil {
		return err
	}
	stock := make(map[enhanced.ResourceIdentifier]string, len(values))
	for _, v := range values {
		if v.problem != "" {
			all.unreadable = append(all.unreadable, v.key)
			continue
		}
		stock[v.resource] = v.value
		r, ours := all.records[v.resource]
		if !ours || r.expiredAt(now) && r.payload != v.value {
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
		if !r.expiredAt(now) && !released {
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

func isNotFound(err error) bool { return errors.Is(err, enhanced.ErrLockNotFound) }
func isCorrupt(err error) bool  { return errors.Is(err, enhanced.ErrCorruptRecord) }

// cutLine cuts a text at its first line break.
func cutLine(text string) (line, rest string, found bool) { return strings.Cut(text, "\n") }

// microseconds is the answer of TIME in one number.
func microseconds(seconds, micros string) (int64, error) {
	s, err := strconv.ParseInt(seconds, 10, 64)
	u, microErr := strconv.ParseInt(micros, 10, 64)
	return s*1_000_000 + u, errors.Join(err, microErr)
}
