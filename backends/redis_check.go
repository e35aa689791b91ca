package backends

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// check refuses a server on which locks would not be safe, with one clear line
// for each reason.
func (b *RedisBackend) check(ctx context.Context) error {
	if err := b.eachPrimary(ctx, b.checkServer); err != nil {
		return err
	}
	set, err := b.client.SetNX(ctx, layoutKey, b.keys.layout(), 0).Result()
	if err != nil {
		return explain(err)
	}
	if !set {
		there, err := b.client.Get(ctx, layoutKey).Result()
		if err != nil {
			return explain(err)
		}
		if there != b.keys.layout() {
			return refuse("the server is in use with layout and prefix %q, this process has %q; all replicas need the same redis_key_prefix and version", there, b.keys.layout())
		}
	}
	return nil
}

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
	if client, ok := b.client.(*redis.Client); ok && info["cluster_enabled"] == "1" {
		if db := client.Options().DB; db != 0 {
			return refuse("database %d on a cluster; a cluster has database 0 only", db)
		}
		return refuse("the server is part of a cluster; set redis_cluster_mode and use a cluster client")
	}
	if err := node.Eval(ctx, "return 1", nil).Err(); err != nil {
		return explain(err)
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
	switch {
	case hasErrorPrefix(err, "NOPERM"):
		return refuse("missing rights: %w; see the ACL in the operator's guide", err)
	case hasErrorPrefix(err, "NOAUTH"), hasErrorPrefix(err, "WRONGPASS"):
		return refuse("user or password is wrong or missing: %w", err)
	case hasErrorPrefix(err, "unknown command"):
		return refuse("Lua or another command is switched off: %w", err)
	}
	return err
}
