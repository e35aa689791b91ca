package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/spf13/cobra"
)

// startTimeout is how long Redis has to show that it is fit when the server starts.
const startTimeout = 15 * time.Second

// openStore is a store that serve has opened.
type openStore struct {
	enhanced.Backend
	// name is for people.
	name  string
	close func() error
}

// openBoltStore opens the file of the data directory.
func (o *serveOptions) openBoltStore(config *enhanced.EnhancedConfig, logger logging.SimpleLogging) (*openStore, error) {
	db, damages, err := openDataFile(o.dataDir)
	if err != nil {
		return nil, err
	}
	for _, damage := range damages {
		log := logger.Warn
		if damage.Incomplete {
			log = logger.Err // seen at every log level
		}
		log("%q: %s", db.Path(), damage.Detail)
	}
	warnIfOpenToOthers(db, logger)
	backend, err := backends.NewBoltBackend(db, config, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("can't use %q: %w", db.Path(), err), db.Close())
	}
	return &openStore{
		Backend: backend,
		name:    printable(db.Path()),
		close:   func() error { return errors.Join(backend.Close(), db.Close()) },
	}, nil
}

// redisClient checks the flags for Redis, enters them in the configuration and
// returns a client that has not dialled.
func (o *serveOptions) redisClient(cmd *cobra.Command, env environment, config *enhanced.EnhancedConfig) (redis.UniversalClient, error) {
	client, err := o.redis.client(cmd, env)
	if err != nil {
		return nil, err
	}
	config.Backend, config.RedisClusterMode = enhanced.BackendRedis, o.redis.isCluster()
	config.RedisKeyPrefix, config.RedisMinReplicasAck = o.keyPrefix, o.minReplicasAck
	if err := config.Validate(); err != nil {
		return nil, errors.Join(usagef(cmd, "%v", err), client.Close())
	}
	return client, nil
}

// openRedisStore connects to Redis, and refuses one on which locks would not be
// safe.
func (o *serveOptions) openRedisStore(ctx context.Context, client redis.UniversalClient, config *enhanced.EnhancedConfig, logger logging.SimpleLogging) (*openStore, error) {
	redis.SetLogger(redisLogger{logger})
	backend := backends.NewRedisBackend(client, config, logger)
	closeAll := func() error { return errors.Join(backend.Close(), client.Close()) }
	if err := o.redis.answerIn(ctx, startTimeout, backend.HealthCheck); err != nil {
		return nil, errors.Join(withHint(o.redis.cannot("use", err), "docs/redis.md says what it needs"), closeAll())
	}
	return &openStore{Backend: backend, name: o.redis.describe(), close: closeAll}, nil
}

// redisLogger passes on what the client library has to say.
type redisLogger struct{ logger logging.SimpleLogging }

func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.logger.Debug("redis client: "+format, v...)
}
