package backends

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// check refuses a server on which locks would not be safe, with one clear line
// for each reason.
func (b *RedisBackend) check(ctx context.Context) error {
	if err := b.eachPrimary(ctx, b.checkServer); err != nil {
		// A cluster is asked for its servers first.
		return explain(err)
	}
	if err := b.checkRights(ctx); err != nil {
		return err
	}
	node, err := b.nodeOf(ctx, layoutKey)
	if err != nil {
		return err
	}
	// Read first: a server without memory refuses to set what is set already.
	there, err := node.Get(ctx, layoutKey).Result()
	if errors.Is(err, redis.Nil) {
		if err := node.SetArgs(ctx, layoutKey, b.keys.layout(), redis.SetArgs{Mode: "NX"}).Err(); err != nil && !errors.Is(err, redis.Nil) {
			return explain(err)
		}
		there, err = node.Get(ctx, layoutKey).Result()
	}
	switch {
	case err != nil:
		return explain(err)
	case there != b.keys.layout():
		return refuse("the server is in use with layout and prefix %q, this process has %q; all replicas need the same redis_key_prefix and version", there, b.keys.layout())
	}
	return nil
}

// checkServer refuses a server by what it says of itself.
func (b *RedisBackend) checkServer(ctx context.Context, node redis.Cmdable) error {
	info, err := serverInfo(ctx, node)
	if err != nil {
		return explain(err)
	}
	if role := info["role"]; role != "master" {
		return refuse("the server is a %s; give the address of the primary, or of Sentinel", role)
	}
	if policy := info["maxmemory_policy"]; policy != "noeviction" && policy != "" {
		return refuse("maxmemory-policy is %s, so the server may throw locks away; set noeviction", policy)
	}
	if info["cluster_enabled"] == "1" && !b.isCluster() {
		return refuse("the server is part of a cluster; set redis_cluster_mode and use a cluster client")
	}
	// Sharded Pub/Sub came with Redis 7. Valkey says a version of Redis, too.
	if major, _, _ := strings.Cut(info["redis_version"], "."); b.isCluster() {
		version, err := strconv.Atoi(major)
		b.sharded.Store(err == nil && version >= 7)
	}
	return nil
}

// maxCheckedTags bounds the search for a tag of every primary.
const maxCheckedTags = 10_000

// checkRights tries all that is needed on every primary: each has users of its
// own. Pub/Sub is no need, see [redisFeed].
func (b *RedisBackend) checkRights(ctx context.Context) error {
	var primaries atomic.Int64
	err := b.eachPrimary(ctx, func(context.Context, redis.Cmdable) error {
		primaries.Add(1)
		return nil
	})
	checked := make(map[string]bool)
	// Slots are spread evenly, so that every primary soon has a tag.
	for i := 0; err == nil && len(checked) < int(primaries.Load()) && i < maxCheckedTags; i++ {
		tag := fmt.Sprintf("%032x", i)
		var node *redis.Client
		if node, err = b.nodeOf(ctx, b.keys.state(tag)); err != nil || checked[node.Options().Addr] {
			continue
		}
		checked[node.Options().Addr] = true
		err = b.checkNode(ctx, node, tag)
	}
	return explain(err)
}

func (b *RedisBackend) checkNode(ctx context.Context, node *redis.Client, tag string) error {
	var keys []string
	for _, kind := range []string{"hash", "set", "stream"} {
		keys = append(keys, b.keys.key(tag, "check-"+kind))
	}
	if !b.isCluster() {
		keys = append(keys, stockPrefix+layoutKey, commandLockPrefix+layoutKey, "check::"+layoutKey+"::0")
	}
	// By its text and by its hash, which need a right each.
	for _, cmd := range []*redis.Cmd{
		evaluation(ctx, "eval", b.scripts.check.text, keys, nil), evaluation(ctx, "evalsha", b.scripts.check.hash, keys, nil),
	} {
		if err := node.Process(ctx, cmd); err != nil && !hasErrorPrefix(err, "NOSCRIPT") {
			return err
		}
	}
	if _, _, err := node.Scan(ctx, 0, b.keys.state(tag), 1).Result(); err != nil {
		return err
	}
	if !b.isCluster() {
		if err := node.RenameNX(ctx, stockPrefix+layoutKey, stockPrefix+layoutKey+"/").Err(); err != nil && !hasErrorPrefix(err, "no such key") {
			return err
		}
	}
	if b.config.Load().RedisMinReplicasAck > 0 {
		return node.Wait(ctx, 0, time.Millisecond).Err()
	}
	return nil
}

// serverInfo reads the fields of INFO that matter.
func serverInfo(ctx context.Context, node redis.Cmdable) (map[string]string, error) {
	fields := make(map[string]string)
	for _, section := range []string{"server", "replication", "memory", "cluster"} {
		text, err := node.Info(ctx, section).Result()
		if err != nil {
			return nil, err
		}
		for line := range strings.SplitSeq(text, "\r\n") {
			if name, value, found := strings.Cut(line, ":"); found {
				fields[name] = value
			}
		}
	}
	return fields, nil
}

// refuse is why a server can't be used.
func refuse(format string, args ...any) error {
	return enhanced.NewBackendError("this Redis can't be used", fmt.Errorf(format, args...))
}

// explain says what an operator can do about the server's answer.
func explain(err error) error {
	var explained *enhanced.LockError
	switch {
	case errors.As(err, &explained):
	case hasErrorPrefix(err, "NOPERM"), hasErrorPrefix(err, "The user executing the script can't"):
		return refuse("missing rights: %w; see the ACL in the operator's guide", err)
	case hasErrorPrefix(err, "NOAUTH"), hasErrorPrefix(err, "WRONGPASS"):
		return refuse("user or password is wrong or missing: %w", err)
	case hasErrorPrefix(err, "SELECT is not allowed in cluster mode"):
		return refuse("it is part of a cluster, which has database 0 only: %w", err)
	case hasErrorPrefix(err, "unknown command"):
		return refuse("Lua or another command is switched off: %w", err)
	}
	return err
}
