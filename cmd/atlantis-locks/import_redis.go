package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/cobra"
)

const (
	// stockKeyPrefix starts the keys of stock Atlantis' locks.
	stockKeyPrefix = "pr/"
	// importPage is how many keys a server is asked for at a time.
	importPage = 1000
)

// readStockRecords reads the locks that stock Atlantis has in Redis, without
// changing them.
func (f *redisServers) readStockRecords(cmd *cobra.Command, env environment) (records []stockRecord, err error) {
	client, err := f.client(cmd, env)
	if err != nil {
		return nil, err
	}
	// What the library logs is in the error too. On stderr it would stand in
	// front of the one object that a script reads there.
	logging.Disable()
	defer func() { err = errors.Join(err, client.Close()) }()
	ctx := cmd.Context()
	var mu sync.Mutex
	read := func(ctx context.Context, node redis.Cmdable) error {
		found, err := f.readStockKeys(ctx, node)
		mu.Lock()
		defer mu.Unlock()
		records = append(records, found...)
		return err
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		// The library asks what servers there are before it names any.
		err = f.firstAnswer(ctx, func(ctx context.Context) error {
			_, err := cluster.MasterForKey(ctx, stockKeyPrefix)
			return err
		})
		if err == nil {
			err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return read(ctx, node) })
		}
	} else {
		err = read(ctx, client)
	}
	if err != nil {
		return nil, f.cannot("read the locks in", err)
	}
	byKey := func(a, b stockRecord) int { return strings.Compare(a.key, b.key) }
	slices.SortFunc(records, byKey)
	// SCAN can answer a key twice.
	return slices.CompactFunc(records, func(a, b stockRecord) bool { return a.key == b.key }), nil
}

// readStockKeys reads the locks of one server.
func (f *redisServers) readStockKeys(ctx context.Context, node redis.Cmdable) (records []stockRecord, err error) {
	var keys []string
	var cursor uint64
	scan := func(ctx context.Context) (err error) {
		keys, cursor, err = node.Scan(ctx, cursor, stockKeyPrefix+"*", importPage).Result()
		return err
	}
	for err := f.firstAnswer(ctx, scan); ; err = scan(ctx) {
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			record := stockRecord{key: strings.TrimPrefix(key, stockKeyPrefix)}
			switch value, err := node.Get(ctx, key).Bytes(); {
			case errors.Is(err, redis.Nil):
				continue // released meanwhile
			case redis.HasErrorPrefix(err, "WRONGTYPE"):
				record.err = errors.New("it is not a text")
			case err != nil:
				return nil, err
			default:
				record = decodeStockRecord(record.key, value)
			}
			records = append(records, record)
		}
		if cursor == 0 {
			return records, nil
		}
	}
}
