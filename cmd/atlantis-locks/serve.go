package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"
)

// serving is one run of serve.
type serving struct {
	*configuration
	cmd         *cobra.Command
	env         environment
	source      *configSource
	addressFile string
	logger      logging.SimpleLogging
}

func newServeCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Open the store and serve the locks over HTTP",
		Long: `Open DIR/atlantis.db, the file that stock Atlantis keeps its locks in, and serve
the locks over HTTP until SIGINT or SIGTERM. The file is made if it is missing;
locks that Atlantis has in it count. One process can have it open.

With --backend redis the locks are in Redis, which any number of servers share:
one server, one behind Sentinel, or a cluster.

Options come from flags, environment variables and the YAML file of --config, in
this order; see docs/configuration.md and "config explain". SIGHUP and "config
reload" have the file read again.

There is no authentication yet, so it listens on loopback addresses only.`,
		Example: `  atlantis-locks serve
  atlantis-locks serve --data-dir /var/lib/atlantis --listen 127.0.0.1:4200
  atlantis-locks serve --config /etc/atlantis-locks.yaml
  atlantis-locks serve --backend redis --redis-addr redis.internal:6379
  atlantis-locks serve --backend redis --redis-addr r1:6379,r2:6379,r3:6379
  atlantis-locks serve --backend redis --redis-addr s1:26379,s2:26379,s3:26379 --redis-sentinel-master locks`,
		Args: wantArgs(),
	}
	s := serving{cmd: cmd, env: env}
	cmd.Flags().StringVar(&s.addressFile, "address-file", "", "write the server's address to this file once it listens, and remove it at the end")
	s.source = addConfigFlags(cmd, env, allOptions)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if s.configuration, err = s.source.load(); err != nil {
			return err
		}
		if err := errors.Join(s.source.warnings(s.configuration), warnOfVariables(env)); err != nil {
			return err
		}
		if s.logger, err = logging.NewStructuredLoggerFromLevel(logLevel(s.Values.Server.LogLevel)); err != nil {
			return err
		}
		return s.run()
	}
	return cmd
}

func logLevel(name string) logging.LogLevel {
	switch name {
	case "debug":
		return logging.Debug
	case "warn":
		return logging.Warn
	case "error":
		return logging.Error
	default:
		return logging.Info
	}
}

// run runs until the command's context ends. What it opens, it closes in reverse
// order.
func (s *serving) run() (err error) {
	ctx, config := s.cmd.Context(), s.locking()
	hangups, ignore := s.source.hangups()
	defer ignore()
	var servers *redisServers
	var client redis.UniversalClient
	if config.Backend == enhanced.BackendRedis {
		servers = s.redis()
		if client, err = servers.client(s.cmd, s.env); err != nil {
			return err
		}
		if servers.InsecureSkipVerify {
			s.logger.Warn("redis.insecure-skip-verify: any certificate is taken, so whoever is between can read and change locks")
		}
	}
	// Before a store is opened, so that none is made for a server that can't listen.
	listener, err := listenLoopback(s.cmd, s.Values.Server.Listen)
	if err != nil {
		if client != nil {
			err = errors.Join(err, client.Close())
		}
		return err
	}
	defer func() {
		if closeErr := listener.Close(); !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}()
	var store *openStore
	if client != nil {
		store, err = s.openRedisStore(servers, client, config)
	} else {
		store, err = s.openBoltStore(config)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()

	// The background work outlives ctx: requests that are still running when
	// it ends have events too.
	background := context.WithoutCancel(ctx)
	manager := enhanced.NewEnhancedLockManager(store.Backend, config, s.logger)
	manager.AddEventCallback(logEvents(s.logger))
	if err := manager.Start(background); err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(background, stopTimeout)
		defer cancel()
		err = errors.Join(err, manager.Stop(stopping))
	}()

	reloader := &reloader{source: s.source, running: s.configuration, manager: manager, logger: s.logger}
	defer reloader.follow(hangups)()

	address := "http://" + listener.Addr().String()
	if err := s.writeAddress(address); err != nil {
		return err
	}
	defer s.removeAddress()

	s.logger.Info("listening on %s, locks are in %s", address, store.name)
	if err := s.greet(address, store.name); err != nil {
		return err
	}
	handler := web.NewHandler(manager, web.Options{Logger: s.logger, LoopbackOnly: true, Stopping: ctx.Done(), Reload: reloader.reload})
	err = serveUntil(ctx, listener, handler, s.logger)
	s.logger.Info("stopped")
	return err
}

// greet says what to open and type next.
func (s *serving) greet(address, store string) error {
	server := ""
	if address != defaultServer {
		server = "     export " + serverVariable + "=" + address + "\n"
	}
	_, err := fmt.Fprintf(s.env.stdout, `listening on %s, locks are in %s

open %s for the description of the API
type in another terminal:
%s     %s
     %s
stop with Ctrl-C
`, address, store, address+api.OpenAPIPath, server,
		s.env.command(`lock acme/infra envs/prod default --note "database maintenance until noon"`), s.env.command("list"))
	return err
}

// writeAddress writes the address file, whole or not at all.
func (s *serving) writeAddress(address string) error {
	if s.addressFile == "" {
		return nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(s.addressFile), filepath.Base(s.addressFile)+".*")
	if err != nil {
		return fmt.Errorf("can't write the address file: %w", err)
	}
	_, err = temporary.WriteString(address + "\n")
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), s.addressFile)
	}
	if err != nil {
		return fmt.Errorf("can't write the address file: %w", errors.Join(err, os.Remove(temporary.Name())))
	}
	return nil
}

func (s *serving) removeAddress() {
	if s.addressFile != "" {
		_ = os.Remove(s.addressFile) // somebody else has removed it
	}
}

func warnIfOpenToOthers(db *bbolt.DB, logger logging.SimpleLogging) {
	if info, err := os.Stat(db.Path()); err == nil && info.Mode().Perm()&0o077 != 0 {
		logger.Warn("%q has mode %#o: other users of this machine can read or change the locks; chmod it to 0600", db.Path(), info.Mode().Perm())
	}
}

// logEvents writes each change of a lock, and each refusal, to the log.
func logEvents(logger logging.SimpleLogging) enhanced.EventCallback {
	return func(_ context.Context, event *enhanced.ManagerEvent) {
		log := logger.With("event", event.Type, "lock_id", event.LockID, "owner", event.Owner, "actor", event.Metadata["actor"])
		for _, name := range []string{"cause", "reason"} {
			if text := event.Metadata[name]; text != "" {
				log = log.With(name, text)
			}
		}
		if event.Err != nil {
			log.Info("%s %s: %v", event.Type, event.Resource, event.Err)
			return
		}
		log.Info("%s %s", event.Type, event.Resource)
	}
}
