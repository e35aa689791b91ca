package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// ackTime is how long replicas have to confirm.
const ackTime = time.Second

// sendAcked is send for a script whose success counts only when replicas have
// it. WAIT is about what its own connection has written
// (https://redis.io/docs/latest/commands/wait/), so both use one connection,
// which is never replaced by another underneath: go-redis fails all further
// commands of one that broke. A grant that is not confirmed stays, like any
// whose outcome is unknown: nobody else gets the lock, and the same request
// gets it as soon as replicas confirm.
func (b *RedisBackend) sendAcked(ctx context.Context, replicas int, s script, keys []string, args []any) (any, error) {
	node, err := b.nodeOf(ctx, keys[0])
	if err != nil {
		return nil, err
	}
	var reply any
	// A transaction that watches nothing is one connection, and sends nothing of
	// its own. It has its own copy of the client's options, taken under a lock;
	// Client.Conn shares them, and go-redis 9.23 changes them while it connects.
	err = b.pipeline(node).guarded(func() error {
		return node.Watch(ctx, func(conn *redis.Tx) (err error) {
			reply, err = b.evaluateAcked(ctx, conn, replicas, s, keys, args)
			return err
		})
	})
	return reply, err
}

func (b *RedisBackend) evaluateAcked(ctx context.Context, conn *redis.Tx, replicas int, s script, keys []string, args []any) (any, error) {
	reply, err := evaluate(ctx, conn, s, keys, args)
	if err != nil {
		return nil, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) == 0 {
		return reply, nil
	}
	status, _ := list[0].(string)
	earlier, counts := s.acked[status]
	if !counts {
		return reply, nil
	}
	acked, err := b.confirm(ctx, conn, keys[0], earlier, replicas)
	if err == nil && acked >= int64(replicas) {
		return reply, nil
	}
	b.relocate(ctx)
	return nil, errors.Join(enhanced.ErrOutcomeUnknown, fmt.Errorf("%d of %d replicas confirmed within %v", acked, replicas, ackTime), err)
}

// confirm answers how many replicas have all that the connection has written.
// An answer about an earlier step comes from a connection that may not have
// written it, and WAIT there would confirm nothing: so it writes.
func (b *RedisBackend) confirm(ctx context.Context, conn *redis.Tx, meta string, write bool, replicas int) (int64, error) {
	if write {
		if _, err := evaluate(ctx, conn, b.scripts.touch, []string{meta}, nil); err != nil {
			return 0, err
		}
	}
	return conn.Wait(ctx, replicas, ackTime).Result()
}
