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

// startRedis starts servers that end with the test t, and puts their addresses
// into $REDIS, with commas: redis single|sentinel|cluster|secure
//
// A secure server has the user locks with the password redis-secret, and files
// $CA, $CERT and $KEY.
func startRedis(t *testing.T) func(ts *testscript.TestScript, neg bool, args []string) {
	t.Helper()
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: redis single|sentinel|cluster|secure")
		}
		var addrs []string
		switch args[0] {
		case "single":
			addrs = []string{redistest.Start(t, redistest.Options{}).Addr}
		case "sentinel":
			addrs = redistest.StartSentinel(t, redistest.Options{}).Options().SentinelAddrs
		case "cluster":
			addrs = redistest.StartCluster(t, 3, 0, redistest.Options{}).Addrs()
		case "secure":
			secure := redistest.NewSecure(t, "user locks on >redis-secret ~* &* +@all")
			addrs = []string{redistest.Start(t, redistest.Options{Secure: secure}).Addr}
			ts.Setenv("CA", secure.CAFile)
			ts.Setenv("CERT", secure.CertFile)
			ts.Setenv("KEY", secure.KeyFile)
		default:
			ts.Fatalf("there is no Redis of the kind %q", args[0])
		}
		ts.Setenv("REDIS", strings.Join(addrs, ","))
	}
}

// cmdStockRedis locks a project in the Redis at $REDIS as stock Atlantis does,
// with its own package: stockredis REPO PATH WORKSPACE PULL
//
// As stockredis KEY VALUE it writes whatever it is told.
func cmdStockRedis(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 && len(args) != 2 {
		ts.Fatalf("usage: stockredis REPO PATH WORKSPACE PULL, or KEY VALUE")
	}
	client := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: strings.Split(ts.Getenv("REDIS"), ",")})
	defer client.Close()
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
