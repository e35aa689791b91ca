package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"
)

const (
	dataDirVariable = "ATLANTIS_LOCKS_DATA_DIR"
	listenVariable  = "ATLANTIS_LOCKS_LISTEN"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	dataDir     string
	listen      string
	addressFile string
	logLevel    string
}

func newServeCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Open the store and serve the locks over HTTP",
		Long: `Open DIR/atlantis.db, the file that stock Atlantis keeps its locks in, and serve
the locks over HTTP until SIGINT or SIGTERM. The file is made if it is missing;
locks that Atlantis has in it count. One process can have it open.

There is no authentication yet, so it listens on loopback addresses only.`,
		Example: `  atlantis-locks serve
  atlantis-locks serve --data-dir /var/lib/atlantis --listen 127.0.0.1:4200`,
		Args: wantArgs(),
	}
	var o serveOptions
	flags := cmd.Flags()
	flags.StringVar(&o.dataDir, "data-dir", setting(env, dataDirVariable, "./data"), "directory of "+dataFileName+" (env "+dataDirVariable+")")
	flags.StringVar(&o.listen, "listen", setting(env, listenVariable, defaultListen), "address to listen on; port 0 is any free one (env "+listenVariable+")")
	flags.StringVar(&o.addressFile, "address-file", "", "write the server's address to this file once it listens, and remove it at the end")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error; debug logs every request")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		level, ok := logLevel(o.logLevel)
		if !ok {
			return usagef(cmd, "--log-level %s is none of debug, info, warn, error", printable(o.logLevel))
		}
		logger, err := logging.NewStructuredLoggerFromLevel(level)
		if err != nil {
			return err
		}
		return o.serve(cmd.Context(), env, logger)
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

// serve runs until ctx ends. What it opens, it closes in reverse order.
func (o *serveOptions) serve(ctx context.Context, env environment, logger logging.SimpleLogging) (err error) {
	db, err := openDataFile(o.dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	warnIfOpenToOthers(db, logger)

	config := enhanced.DefaultConfig()
	config.Enabled, config.EnableEvents = true, true
	backend, err := backends.NewBoltBackend(db, config, logger)
	if err != nil {
		return fmt.Errorf("can't use %q: %w", db.Path(), err)
	}
	defer func() { err = errors.Join(err, backend.Close()) }()

	// The background work outlives ctx: requests that are still running when
	// it ends have events too.
	background := context.WithoutCancel(ctx)
	manager := enhanced.NewEnhancedLockManager(backend, config, logger)
	manager.AddEventCallback(logEvents(logger))
	if err := manager.Start(background); err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(background, stopTimeout)
		defer cancel()
		err = errors.Join(err, manager.Stop(stopping))
	}()

	listener, err := listenLoopback(ctx, o.listen)
	if err != nil {
		return err
	}
	address := "http://" + listener.Addr().String()
	if err := o.writeAddress(address); err != nil {
		return errors.Join(err, listener.Close())
	}
	defer o.removeAddress()

	logger.Info("listening on %s, locks are in %q", address, db.Path())
	if err := o.greet(env, address, db.Path()); err != nil {
		return errors.Join(err, listener.Close())
	}
	handler := web.NewHandler(manager, web.Options{Logger: logger, LoopbackOnly: true})
	err = serveUntil(ctx, listener, handler, logger)
	logger.Info("stopped")
	return err
}

// greet says what to open and type next.
func (o *serveOptions) greet(env environment, address, file string) error {
	program := printable(env.program)
	server := ""
	if address != defaultServer {
		server = "     export " + serverVariable + "=" + address + "\n"
	}
	_, err := fmt.Fprintf(env.stdout, `listening on %s, locks are in %s

open %s for the description of the API
type in another terminal:
%s     %s lock acme/infra envs/prod default --note "database maintenance until noon"
     %s list
stop with Ctrl-C
`, address, printable(file), address+api.OpenAPIPath, server, program, program)
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
