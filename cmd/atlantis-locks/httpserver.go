package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/logging"
)

const (
	// stopTimeout is how long requests have to finish once the server is told
	// to stop. Supervisors commonly kill after 30 seconds.
	stopTimeout = 20 * time.Second
	// writeTimeout ends what a client does not read. It is longer than the
	// longest operation, an import, may take.
	writeTimeout = 3 * time.Minute
)

// serveUntil serves on listener until ctx ends; then it accepts no more and
// lets the requests finish that are running.
func serveUntil(ctx context.Context, listener net.Listener, handler http.Handler, logger logging.SimpleLogging) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       60 * time.Second,
		ErrorLog:          log.New(logWriter{logger}, "", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	logger.Info("stopping: %v", context.Cause(ctx))
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := server.Shutdown(stopping)
	if errors.Is(err, context.DeadlineExceeded) {
		logger.Warn("requests were still running after %v; their connections are closed", stopTimeout)
		err = server.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// logWriter puts what net/http has to say into the structured log.
type logWriter struct{ logger logging.SimpleLogging }

func (w logWriter) Write(line []byte) (int, error) {
	w.logger.Warn("http: %q", strings.TrimSpace(string(line)))
	return len(line), nil
}
