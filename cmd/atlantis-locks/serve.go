package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/bbolt"
)

const (
	dataDirVariable = "ATLANTIS_LOCKS_DATA_DIR"
	listenVariable  = "ATLANTIS_LOCKS_LISTEN"
	levelVariable   = "ATLANTIS_LOCKS_LOG_LEVEL"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	dataDir     string
	listen      string
	addressFile string
	logLevel    string

	redis          *redisFlags
	keyPrefix      string
	minReplicasAck int

	queue        bool
	queueSize    int
	queueTimeout time.Duration

	queueFor, priorityRules []string
	runs                    *runFlags
	faults                  *faultFlags
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

There is no authentication yet, so it listens on loopback addresses only.`,
		Example: `  atlantis-locks serve
  atlantis-locks serve --data-dir /var/lib/atlantis --listen 127.0.0.1:4200
  atlantis-locks serve --config /etc/atlantis-locks.yaml
  atlantis-locks serve --backend redis --redis-addr redis.internal:6379
  atlantis-locks serve --backend redis --redis-addr r1:6379,r2:6379,r3:6379
  atlantis-locks serve --backend redis --redis-addr s1:26379,s2:26379,s3:26379 --redis-sentinel-master locks`,
		Args: wantArgs(),
	}
	var o serveOptions
	flags := cmd.Flags()
	flags.StringVar(&o.dataDir, "data-dir", setting(env, dataDirVariable, "./data"), "directory of "+dataFileName+" (env "+dataDirVariable+")")
	flags.StringVar(&o.listen, "listen", setting(env, listenVariable, defaultListen), "address to listen on; port 0 is any free one (env "+listenVariable+")")
	flags.StringVar(&o.addressFile, "address-file", "", "write the server's address to this file once it listens, and remove it at the end")
	flags.StringVar(&o.logLevel, "log-level", setting(env, levelVariable, "info"), "debug, info, warn or error; debug logs every request (env "+levelVariable+")")
	o.redis = addRedisFlags(cmd, env)
	store := pflag.NewFlagSet("store", pflag.ContinueOnError)
	store.StringVar(&o.keyPrefix, "redis-key-prefix", enhanced.DefaultConfig().RedisKeyPrefix, "start of every key")
	store.IntVar(&o.minReplicasAck, "redis-min-replicas-ack", 0, "replicas that must have a change before it counts")
	defaults := enhanced.DefaultConfig()
	store.BoolVar(&o.queue, "enable-priority-queue", false, "calls that can wait do so in a queue")
	store.IntVar(&o.queueSize, "max-queue-size", defaults.MaxQueueSize, "requests that can wait for one lock")
	store.DurationVar(&o.queueTimeout, "queue-timeout", defaults.QueueTimeout, "how long a request waits at most")
	store.StringArrayVar(&o.queueFor, "queue-for", nil, "only these requests use the queue, such as \"repository=acme/*;path=envs/prod/**\"; also workspace and user; repeatable")
	store.StringArrayVar(&o.priorityRules, "priority-rule", nil, "priority of requests that name none, such as \"user=release-bot;priority=critical\"; the first that fits counts; repeatable")
	o.runs = addRunFlags(store)
	o.faults = addFaultFlags(store)
	o.redis.fromEnvironment = errors.Join(o.redis.fromEnvironment, setFromEnvironment(store, env))
	flags.AddFlagSet(store)
	config := addConfigFlag(cmd, env)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := config.apply(cmd, env); err != nil {
			return err
		}
		level, ok := logLevel(o.logLevel)
		if !ok {
			return usagef(cmd, "--log-level %s is none of debug, info, warn, error", printable(o.logLevel))
		}
		logger, err := logging.NewStructuredLoggerFromLevel(level)
		if err != nil {
			return err
		}
		return o.serve(cmd, env, logger)
	}
	return cmd
}

func logLevel(name string) (logging.LogLevel, bool) {
	switch name {
	case "debug":
		return logging.Debug, true
	case "info":
		return logging.Info, true
	case "warn":
		return logging.Warn, true
	case "error":
		return logging.Error, true
	default:
		return logging.LogLevel{}, false
	}
}

// serve runs until the command's context ends. What it opens, it closes in
// reverse order.
func (o *serveOptions) serve(cmd *cobra.Command, env environment, logger logging.SimpleLogging) (err error) {
	ctx := cmd.Context()
	config := enhanced.DefaultConfig()
	config.Enabled, config.EnableEvents = true, true
	config.EnablePriorityQueue, config.MaxQueueSize, config.QueueTimeout = o.queue, o.queueSize, o.queueTimeout
	if err := o.addQueueRules(config); err != nil {
		return usagef(cmd, "%v", err)
	}
	o.runs.apply(config)
	o.faults.apply(config)
	if err := config.Validate(); err != nil {
		return usagef(cmd, "%v", err)
	}
	isRedis, err := o.redis.isRedis(cmd)
	if err != nil {
		return err
	}
	var client redis.UniversalClient
	if isRedis {
		if client, err = o.redisClient(cmd, env, config); err != nil {
			return err
		}
	}
	// Before a store is opened, so that none is made for a server that can't listen.
	listener, err := listenLoopback(cmd, o.listen)
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
	if isRedis {
		store, err = o.openRedisStore(ctx, client, config, logger)
	} else {
		store, err = o.openBoltStore(config, logger)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()

	// The background work outlives ctx: requests that are still running when
	// it ends have events too.
	background := context.WithoutCancel(ctx)
	manager := enhanced.NewEnhancedLockManager(store.Backend, config, logger)
	manager.AddEventCallback(logEvents(logger))
	if err := manager.Start(background); err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(background, stopTimeout)
		defer cancel()
		err = errors.Join(err, manager.Stop(stopping))
	}()

	address := "http://" + listener.Addr().String()
	if err := o.writeAddress(address); err != nil {
		return err
	}
	defer o.removeAddress()

	logger.Info("listening on %s, locks are in %s", address, store.name)
	if err := o.greet(env, address, store.name); err != nil {
		return err
	}
	handler := web.NewHandler(manager, web.Options{Logger: logger, LoopbackOnly: true, Stopping: ctx.Done()})
	err = serveUntil(ctx, listener, handler, logger)
	logger.Info("stopped")
	return err
}

// greet says what to open and type next.
func (o *serveOptions) greet(env environment, address, store string) error {
	server := ""
	if address != defaultServer {
		server = "     export " + serverVariable + "=" + address + "\n"
	}
	_, err := fmt.Fprintf(env.stdout, `listening on %s, locks are in %s

open %s for the description of the API
type in another terminal:
%s     %s
     %s
stop with Ctrl-C
`, address, store, address+api.OpenAPIPath, server,
		env.command(`lock acme/infra envs/prod default --note "database maintenance until noon"`), env.command("list"))
	return err
}

// writeAddress writes the address file, whole or not at all.
func (o *serveOptions) writeAddress(address string) error {
	if o.addressFile == "" {
		return nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(o.addressFile), filepath.Base(o.addressFile)+".*")
	if err != nil {
		return fmt.Errorf("can't write the address file: %w", err)
	}
	_, err = temporary.WriteString(address + "\n")
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), o.addressFile)
	}
	if err != nil {
		return fmt.Errorf("can't write the address file: %w", errors.Join(err, os.Remove(temporary.Name())))
	}
	return nil
}

func (o *serveOptions) removeAddress() {
	if o.addressFile != "" {
		_ = os.Remove(o.addressFile) // somebody else has removed it
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
		if event.Err != nil {
			log.Info("%s %s: %v", event.Type, event.Resource, event.Err)
			return
		}
		log.Info("%s %s", event.Type, event.Resource)
	}
}
