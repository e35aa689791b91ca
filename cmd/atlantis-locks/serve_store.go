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
func (s *serving) openBoltStore(config *enhanced.EnhancedConfig) (*openStore, error) {
	db, damages, err := openDataFile(s.Values.Server.DataDir)
	if err != nil {
		return nil, err
	}
	for _, damage := range damages {
		log := s.logger.Warn
		if damage.Incomplete {
			log = s.logger.Err // seen at every log level
		}
		log("%q: %s", db.Path(), damage.Detail)
	}
	warnIfOpenToOthers(db, s.logger)
	backend, err := backends.NewBoltBackend(db, config, s.logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("can't use %q: %w", db.Path(), err), db.Close())
	}
	return &openStore{
		Backend: backend,
		name:    printable(db.Path()),
		close:   func() error { return errors.Join(backend.Close(), db.Close()) },
	}, nil
}

// openRedisStore connects to Redis, and refuses one on which locks would not be
// safe.
func (s *serving) openRedisStore(servers *redisServers, client redis.UniversalClient, config *enhanced.EnhancedConfig) (*openStore, error) {
	redis.SetLogger(redisLogger{s.logger})
	backend := backends.NewRedisBackend(client, config, s.logger)
	closeAll := func() error { return errors.Join(backend.Close(), client.Close()) }
	if err := servers.answerIn(s.cmd.Context(), startTimeout, backend.HealthCheck); err != nil {
		return nil, errors.Join(withHint(servers.cannot("use", err), "docs/redis.md says what it needs"), closeAll())
	}
	return &openStore{Backend: backend, name: servers.describe(), close: closeAll}, nil
}

// redisLogger passes on what the client library has to say.
type redisLogger struct{ logger logging.SimpleLogging }

func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.logger.Debug("redis client: "+format, v...)
}
