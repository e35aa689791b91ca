package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// commands on a Conn that broke.
func (b *RedisBackend) sendAcked(ctx context.Context, replicas int, s script, keys []string, args []any) (any, error) {
	node, err := b.nodeOf(ctx, keys[0])
	if err != nil {
		return nil, err
	}
	conn := node.Conn()
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	reply, err := evaluate(ctx, conn, s, keys, args)
	if err != nil {
		return nil, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) == 0 || !slices.ContainsFunc(s.acked, func(status string) bool { return status == list[0] }) {
		return reply, nil
	}
	acked, err := confirm(ctx, conn, keys[0], list[0] != "released", replicas)
	if err == nil && acked >= int64(replicas) {
		return reply, nil
	}
	b.relocate(ctx)
	short := errors.Join(enhanced.ErrOutcomeUnknown, fmt.Errorf("%d of %d replicas confirmed within %v", acked, replicas, ackTime), err)
	if list[0] == "granted" {
		short = errors.Join(short, b.giveBack(ctx, conn, keys, args, list))
	}
	return nil, short
}

// confirm answers how many replicas have all that the connection has written.
// An answer about an earlier step comes from a connection that may not have
// written it, and WAIT there would confirm nothing: so it writes.
func confirm(ctx context.Context, conn *redis.Conn, meta string, write bool, replicas int) (int64, error) {
	if write {
		if err := conn.Process(ctx, once{redis.NewCmd(ctx, "hset", meta, "confirmed", 1)}); err != nil {
			return 0, err
		}
	}
	wait := once{redis.NewCmd(ctx, "wait", replicas, ackTime.Milliseconds())}
	if err := conn.Process(ctx, wait); err != nil {
		return 0, err
	}
	return wait.Int64()
}

// giveBack releases a grant that its caller will not hear of.
func (b *RedisBackend) giveBack(ctx context.Context, conn *redis.Conn, keys []string, args, granted []any) error {
	text, ok := granted[len(granted)-1].(string)
	if !ok {
		return fmt.Errorf("script acquire answered %T as record", granted[len(granted)-1])
	}
	record, err := decodeRedisRecord(text)
	if err != nil {
		return err
	}
	// Whether the caller still waits or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTime)
	defer cancel()
	// The prelude's arguments and the resource are the same.
	release := append(slices.Clone(args[:6]), record.Token, "", "", "1", "system:store", "not confirmed by replicas")
	_, err = evaluate(ctx, conn, b.scripts.release, keys, release)
	return err
}

// nodeOf returns the client of the server that has a key.
func (b *RedisBackend) nodeOf(ctx context.Context, key string) (*redis.Client, error) {
	switch client := b.client.(type) {
	case *redis.ClusterClient:
		return client.MasterForKey(ctx, key)
	case *redis.Client:
		return client, nil
	}
	return nil, fmt.Errorf("unexpected client %T", b.client)
}
