package backends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// StockKind is a kind of value that stock Atlantis keeps.
type StockKind int

// The kinds of value. Their keys are those of an [Inventory]; a lock's key is its
// resource's LegacyKey.
const (
	StockLock StockKind = iota
	StockStatus
	StockCommandLock
)

// StockStore changes single values as stock Atlantis keeps them, each in one
// atomic step and only if it is what it was taken for. It is for migrations: a
// backend's own locks are its own business. It is safe for concurrent use.
type StockStore struct {
	db     *bbolt.DB
	client redis.UniversalClient
	script script
}

// NewStockBolt returns the store in a writable file, whose missing buckets it
// makes.
func NewStockBolt(db *bbolt.DB) (*StockStore, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		for _, bucket := range []string{legacyLocksBucket, legacyPullsBucket, legacyCommandsBucket} {
			if _, err := tx.CreateBucketIfNotExists([]byte(bucket)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("preparing %q: %w", db.Path(), err)
	}
	return &StockStore{db: db}, nil
}

// NewStockRedis returns the store in Redis.
func NewStockRedis(client redis.UniversalClient) *StockStore {
	return &StockStore{client: client, script: loadScripts().status}
}

// Replace gives change the value under a key, "" for none, and stores what it
// returns, "" to delete. change may be called more than once. Its error ends the
// step.
func (s *StockStore) Replace(ctx context.Context, kind StockKind, key string, change func(value string) (string, error)) error {
	if s.db != nil {
		return s.replaceInFile(ctx, kind, key, change)
	}
	switch kind {
	case StockLock:
		key = stockPrefix + key
	case StockCommandLock:
		key = commandLockPrefix + key
	case StockStatus:
	}
	for range maxReplace {
		value, err := s.client.Get(ctx, key).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		next, err := change(value)
		if err != nil || next == value {
			return err
		}
		answer, err := s.client.EvalSha(ctx, s.script.hash, []string{key}, value, next).Result()
		if hasErrorPrefix(err, "NOSCRIPT") {
			answer, err = s.client.Eval(ctx, s.script.text, []string{key}, value, next).Result()
		}
		if err != nil {
			return err
		}
		if reply, err := texts(s.script.name, answer); err != nil || reply[0] == "replaced" {
			return err
		}
	}
	return fmt.Errorf("key %q changes all the time", key)
}

// replaceInFile shares its commit with the other callers.
func (s *StockStore) replaceInFile(ctx context.Context, kind StockKind, key string, change func(value string) (string, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bucket := map[StockKind]string{StockLock: legacyLocksBucket, StockStatus: legacyPullsBucket, StockCommandLock: legacyCommandsBucket}[kind]
	return s.db.Batch(func(tx *bbolt.Tx) error {
		values := tx.Bucket([]byte(bucket))
		value := string(values.Get([]byte(key)))
		switch next, err := change(value); {
		case err != nil || next == value:
			return err
		case next == "":
			return values.Delete([]byte(key))
		default:
			return values.Put([]byte(key), []byte(next))
		}
	})
}

// StockForm is a lock as stock Atlantis writes it, but for the credential that
// stock would store with it.
func StockForm(lock models.ProjectLock) (string, error) {
	text, err := json.Marshal(enhanced.SanitizeProjectLock(lock))
	return string(text), err
}

// SameStatus reports whether two values of a kind that is no lock say the same,
// credentials apart.
func SameStatus(kind StockKind, key, x, y string) bool {
	if x == y {
		return true
	}
	if kind != StockStatus || x == "" || y == "" {
		return false
	}
	canonical := func(value string) string {
		status, err := decodeStatus(key, value)
		if err != nil || status == nil {
			return value
		}
		text, err := encodeStatus(*status)
		if err != nil {
			return value
		}
		return text
	}
	return canonical(x) == canonical(y)
}
