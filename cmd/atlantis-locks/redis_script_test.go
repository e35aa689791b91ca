package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	stock "github.com/runatlantis/atlantis/server/core/redis"
)

// startRedis starts servers that end with the test t. They are the script's Redis
// from then on, and $REDIS has their addresses, with commas: redis KIND
//
// The kinds are single, sentinel and cluster; each as secure-KIND, which asks for
// TLS, with the files $CA, $CERT and $KEY, and for the user locks with the
// password redis-secret; and sentinel-users. The sentinels of that one and of
// secure-sentinel ask for the user watch with the password sentinel-secret.
func startRedis(t *testing.T) func(ts *testscript.TestScript, neg bool, args []string) {
	t.Helper()
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: redis KIND")
		}
		kind, isSecure := strings.CutPrefix(args[0], "secure-")
		var options redistest.Options
		if isSecure {
			secure := redistest.NewSecure(t, "user locks on >redis-secret ~* &* +@all")
			ts.Setenv("CA", secure.CAFile)
			ts.Setenv("CERT", secure.CertFile)
			ts.Setenv("KEY", secure.KeyFile)
			options.Secure = secure
		}
		if isSecure || kind == "sentinel-users" {
			options.SentinelUsers = []string{"user watch on >sentinel-secret &* +@all"}
		}
		var addrs []string
		var client redis.UniversalClient
		switch kind {
		case "single":
			server := redistest.Start(t, options)
			addrs, client = []string{server.Addr}, server.Client()
		case "sentinel", "sentinel-users":
			sentinel := redistest.StartSentinel(t, options)
			addrs, client = sentinel.Options().SentinelAddrs, sentinel.Primary.Client()
		case "cluster":
			cluster := redistest.StartCluster(t, 3, 0, options)
			addrs, client = cluster.Addrs(), cluster.Client()
		default:
			ts.Fatalf("there is no Redis of the kind %q", args[0])
		}
		ts.Setenv("REDIS", strings.Join(addrs, ","))
		*scriptRedis(ts) = client
	}
}

// redisValue is the key of a script's value that has its Redis.
type redisValue struct{}

// scriptRedis is where an administrator's client of the script's Redis is.
func scriptRedis(ts *testscript.TestScript) *redis.UniversalClient {
	return ts.Value(redisValue{}).(*redis.UniversalClient)
}

// cmdStockRedis locks a project in the script's Redis as stock Atlantis does, with
// its own package: stockredis REPO PATH WORKSPACE PULL
//
// As stockredis KEY VALUE it writes whatever it is told.
func cmdStockRedis(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 && len(args) != 2 {
		ts.Fatalf("usage: stockredis REPO PATH WORKSPACE PULL, or KEY VALUE")
	}
	client := *scriptRedis(ts)
	if len(args) == 2 {
		ts.Check(client.Set(context.Background(), args[0], args[1], 0).Err())
		return
	}
	pull, err := strconv.Atoi(args[3])
	ts.Check(err)
	lock := stockLock(args[0], args[1], args[2], pull)
	single, ok := client.(*redis.Client)
	if !ok {
		// Stock's package takes a cluster's client from nobody.
		text, err := json.Marshal(lock)
		ts.Check(err)
		ts.Check(client.Set(context.Background(), "pr/"+args[0]+"/"+args[1]+"/"+args[2]+"/", text, 0).Err())
		return
	}
	db, err := stock.NewWithClient(single, "", "")
	ts.Check(err)
	acquired, _, err := db.TryLock(lock)
	ts.Check(err)
	if !acquired {
		ts.Fatalf("stock Atlantis has it locked already")
	}
}
