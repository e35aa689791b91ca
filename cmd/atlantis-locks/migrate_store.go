package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"
)

// migrationStore is a store that a migration reads or fills. One of client and
// path is set.
type migrationStore struct {
	url    *storeURL
	client redis.UniversalClient

	path string
	// db is nil while the file is not there.
	db *bbolt.DB

	// The following are made by prepare.
	backend lockStore
	stock   *backends.StockStore
}

// lockStore is what a migration needs of a backend.
type lockStore interface {
	enhanced.Backend
	RaiseToken(ctx context.Context, repository string, floor int64) error
	Close() error
}

// longestLease bounds the leases that a migration can carry.
const longestLease = 100 * 365 * 24 * time.Hour

func (s *migrationStore) name() string { return s.url.describe() }

func (s *migrationStore) config() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.Enabled, config.MaxTimeout, config.RedisKeyPrefix = true, longestLease, s.url.prefix
	if s.client != nil {
		config.Backend, config.RedisClusterMode = enhanced.BackendRedis, s.url.redis.cluster
	}
	return config
}

// newMigrationStore does not open or dial anything.
func newMigrationStore(cmd *cobra.Command, env environment, u *storeURL) (*migrationStore, error) {
	if u.redis == nil {
		path, err := filepath.Abs(u.file)
		return &migrationStore{url: u, path: path}, err
	}
	client, err := u.client(cmd, env)
	if err != nil {
		return nil, err
	}
	return &migrationStore{url: u, client: client}, nil
}

// open opens a file. What is missing is made only if it may be.
func (s *migrationStore) open(readOnly, mayBeMissing bool, env environment) error {
	if s.client != nil {
		return nil
	}
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && mayBeMissing && readOnly:
		return nil
	case errors.Is(err, fs.ErrNotExist) && mayBeMissing:
		if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
			return fmt.Errorf("can't make the directory of %q: %w", s.path, withoutPath(err))
		}
	case errors.Is(err, fs.ErrNotExist):
		return withHint(fmt.Errorf("there is no file %q", s.path), "Atlantis keeps %s in its --data-dir", dataFileName)
	case err != nil:
		return fmt.Errorf("can't read %q: %w", s.path, withoutPath(err))
	case !info.Mode().IsRegular():
		return withHint(fmt.Errorf("can't use %q: it is %s", s.path, describeMode(info.Mode())), "name the file itself, DIR/%s", dataFileName)
	case info.Size() == 0:
		// bbolt would make a store of it.
		return fmt.Errorf("%q is empty", s.path)
	default:
		damages, err := checkDataFile(s.path)
		if err != nil {
			return err
		}
		for _, damage := range damages {
			fmt.Fprintf(env.stderr, "warning: %q: %s\n", s.path, damage.Detail)
		}
	}
	s.db, err = openBolt(s.path, &bbolt.Options{ReadOnly: readOnly, Timeout: openTimeout})
	return err
}

// inventory reads the store.
func (s *migrationStore) inventory(ctx context.Context) (found *backends.Inventory, err error) {
	switch {
	case s.client != nil:
		err = s.url.redis.firstAnswer(ctx, func(ctx context.Context) error { return s.client.Ping(ctx).Err() })
		if err == nil {
			found, err = backends.ReadRedisInventory(ctx, s.client, s.url.prefix)
		}
		if err != nil {
			return nil, s.url.redis.cannot("read the locks in", err)
		}
		return found, nil
	case s.db == nil:
		return &backends.Inventory{Stock: true}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var failed error
	err = recovering(s.path, func() error {
		found, failed = backends.ReadBoltInventory(s.db)
		return nil
	})
	if failed != nil {
		err = errors.Join(err, fmt.Errorf("can't read %q: %w", s.path, failed))
	}
	return found, err
}

// prepare makes what writes to the store: a backend only if it is to be ours.
func (s *migrationStore) prepare(ctx context.Context, ours bool) (err error) {
	switch {
	case s.client != nil:
		s.stock = backends.NewStockRedis(s.client)
	default:
		if s.stock, err = backends.NewStockBolt(s.db); err != nil {
			return err
		}
	}
	if !ours || s.backend != nil {
		return nil
	}
	if s.client == nil {
		s.backend, err = backends.NewBoltBackend(s.db, s.config(), nil)
		return err
	}
	s.backend = backends.NewRedisBackend(s.client, s.config(), nil)
	if err := s.url.redis.answerIn(ctx, startTimeout, s.backend.HealthCheck); err != nil {
		return withHint(s.url.redis.cannot("use", err), "docs/redis.md says what it needs")
	}
	return nil
}

func (s *migrationStore) close() (err error) {
	if s.backend != nil {
		err = s.backend.Close()
	}
	if s.client != nil {
		return errors.Join(err, s.client.Close())
	}
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	return err
}

// reopen opens a file of a source for writing.
func (s *migrationStore) reopen() (err error) {
	if s.db == nil {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return err
	}
	s.db, err = openBolt(s.path, &bbolt.Options{Timeout: openTimeout})
	return err
}

// overlaps reports what two stores have in common: a file, by whatever name, or
// a database of a server, by whatever address.
func (s *migrationStore) overlaps(ctx context.Context, other *migrationStore) (what string, err error) {
	if s.client == nil && other.client == nil {
		mine, err := os.Stat(s.path)
		if err != nil {
			return "", nil // opening it says so
		}
		if its, err := os.Stat(other.path); err == nil && os.SameFile(mine, its) {
			return "they are one file", nil
		}
		return "", nil
	}
	if s.client == nil || other.client == nil || s.url.redis.DB != other.url.redis.DB {
		return "", nil
	}
	mine, err := s.servers(ctx)
	if err != nil {
		return "", err
	}
	its, err := other.servers(ctx)
	if err != nil {
		return "", err
	}
	for id := range mine {
		if its[id] {
			return "they are one database of one server", nil
		}
	}
	return "", nil
}

// servers returns the run IDs of the servers that take writes, see
// https://redis.io/docs/latest/commands/info/.
func (s *migrationStore) servers(ctx context.Context) (map[string]bool, error) {
	var mu sync.Mutex
	ids := make(map[string]bool)
	ask := func(ctx context.Context, node redis.Cmdable) error {
		text, err := node.Info(ctx, "server").Result()
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if id, found := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); found && id != "" {
				mu.Lock()
				ids[id] = true
				mu.Unlock()
			}
		}
		return nil
	}
	err := s.url.redis.firstAnswer(ctx, func(ctx context.Context) error { return s.client.Ping(ctx).Err() })
	if cluster, ok := s.client.(*redis.ClusterClient); ok && err == nil {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return ask(ctx, node) })
	} else if err == nil {
		err = ask(ctx, s.client)
	}
	if err != nil {
		return nil, s.url.redis.cannot("look at", err)
	}
	return ids, nil
}
