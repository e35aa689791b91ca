package backends

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// ReadLog returns records of a repository's log. See [enhanced.Backend].
func (b *RedisBackend) ReadLog(ctx context.Context, repository string, after uint64, limit int) (*enhanced.LogPage, error) {
	if limit < 1 {
		return nil, enhanced.NewInvalidError("limit %d; give at least 1", limit)
	}
	operation := "read the log of " + repository
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	return call(ctx, b, operation, false, func(ctx context.Context) (*enhanced.LogPage, error) {
		return b.readLog(ctx, enhanced.RepositoryTag(repository), repository, after, limit)
	})
}

func (b *RedisBackend) readLog(ctx context.Context, tag, repository string, after uint64, limit int) (*enhanced.LogPage, error) {
	pipe := b.client.Pipeline()
	trimmed := pipe.HGet(ctx, b.keys.meta(tag), "trimmed")
	messages := pipe.XRangeN(ctx, b.keys.log(tag), "("+strconv.FormatUint(after, 10)+"-0", "+", int64(limit)+1)
	if err := execute(ctx, pipe); err != nil {
		return nil, err
	}
	if err := messages.Err(); err != nil {
		return nil, err
	}
	page := &enhanced.LogPage{}
	if text := trimmed.Val(); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q trimmed: %w", b.keys.meta(tag), err)
		}
		page.Trimmed = n
	}
	for i, message := range messages.Val() {
		if i == limit {
			page.More = true
			break
		}
		record, err := decodeRedisLog(repository, message)
		if err != nil {
			// Named instead of hidden: a reader sees that it is there.
			sequence, err := redisSequence(message)
			if err != nil {
				return nil, err
			}
			record = &enhanced.LogRecord{Sequence: sequence, Type: enhanced.EventUnreadable}
			record.Resource.Namespace = repository
		}
		page.Records = append(page.Records, record)
	}
	return page, nil
}

// sequences returns the last sequence of each repository's log, by tag.
func (b *RedisBackend) sequences(ctx context.Context, repositories map[string]string) (map[string]uint64, error) {
	pipe := b.client.Pipeline()
	gets := make(map[string]*redis.StringCmd, len(repositories))
	for tag := range repositories {
		gets[tag] = pipe.HGet(ctx, b.keys.meta(tag), "sequence")
	}
	last := make(map[string]uint64, len(repositories))
	if len(gets) == 0 {
		return last, nil
	}
	if err := execute(ctx, pipe); err != nil {
		return nil, err
	}
	for tag, get := range gets {
		if get.Val() == "" {
			continue
		}
		n, err := strconv.ParseUint(get.Val(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q sequence: %w", b.keys.meta(tag), err)
		}
		last[tag] = n
	}
	return last, nil
}
