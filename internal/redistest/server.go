package redistest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// BinaryVariable names the environment variable with the server binary to use
// instead of redis-server: another version, or Valkey.
const BinaryVariable = "ATLANTIS_LOCKS_TEST_REDIS_SERVER"

// startTime bounds how long a server may take to answer.
const startTime = time.Minute

// Options say how servers are started. The zero value is a server that keeps
// nothing on disk and lets everybody in.
type Options struct {
	// Args are further arguments, as on redis-server's command line.
	Args []string
	// Env are further environment variables, NAME=VALUE.
	Env []string
	// DeadAfter is when nodes of a cluster, or sentinels, take a server for dead
	// that does not answer. Default 30s: a busy machine is no fault to be tested.
	DeadAfter time.Duration
	// Secure, when set, makes the servers ask for TLS, users and passwords.
	Secure *Secure
	// SentinelUsers, when set, makes the sentinels ask for a user and a password
	// too: the administrator's, or those of these lines of an ACL file.
	SentinelUsers []string

	// cluster has the server find a port for a cluster's bus.
	cluster bool
}

// deadAfter is DeadAfter in milliseconds.
func (o Options) deadAfter() string {
	return strconv.FormatInt(cmp.Or(o.DeadAfter, 30*time.Second).Milliseconds(), 10)
}

// Server is one redis-server process.
type Server struct {
	// Addr is host:port.
	Addr string
	// Dir has the server's files, "server.log" among them.
	Dir string

	tb      testing.TB
	options Options
	// asks says that it asks for a user and a password.
	asks    bool
	command []string
	process *exec.Cmd
	exited  chan struct{}
	frozen  atomic.Bool
}

// Start starts a server.
func Start(tb testing.TB, options Options) *Server {
	tb.Helper()
	return startAny(tb, func() *Server {
		s := newServer(tb, options)
		s.command = append([]string{
			"--bind", "127.0.0.1", "--dir", s.Dir, "--logfile", "server.log",
			"--save", "", "--appendonly", "no", "--daemonize", "no", "--maxmemory-policy", "noeviction",
			"--repl-diskless-sync-delay", "0",
		}, options.Args...)
		s.command = append(s.command, options.Secure.serverArgs(s.port())...)
		if options.cluster {
			s.command = append(s.command, "--cluster-port", strconv.Itoa(FreePort(tb)))
		}
		return s
	})
}

// startAny starts a server on ports that are free. Between finding one and the
// server's using it another process can take it, so that is tried again, with
// other ports.
func startAny(tb testing.TB, newOne func() *Server) *Server {
	tb.Helper()
	for attempt := 1; ; attempt++ {
		s := newOne()
		err := s.Run()
		if err == nil {
			tb.Cleanup(s.Kill)
			return s
		}
		s.Kill()
		if attempt == 3 {
			require.NoError(tb, err)
		}
	}
}

func newServer(tb testing.TB, options Options) *Server {
	tb.Helper()
	return &Server{
		tb: tb, options: options, asks: options.Secure != nil && options.Secure.users != "",
		Dir: tb.TempDir(), Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb))),
	}
}

func (s *Server) port() string {
	_, port, err := net.SplitHostPort(s.Addr)
	require.NoError(s.tb, err)
	return port
}

// Run starts the process, the first time or again after [Server.Kill], and
// waits until it listens.
func (s *Server) Run() error {
	binary := os.Getenv(BinaryVariable)
	if binary == "" {
		binary = "redis-server"
	}
	path, err := exec.LookPath(binary)
	if err != nil {
		return fmt.Errorf("%w; install it: sudo apt-get install redis-server", err)
	}
	// The server outlives the test's context, since clean-up still talks to it.
	s.process = exec.CommandContext(context.WithoutCancel(s.tb.Context()), path, s.command...)
	s.process.Env = append(os.Environ(), s.options.Env...)
	var output bytes.Buffer
	s.process.Stdout, s.process.Stderr = &output, &output
	endWithTest(s.process)
	if err := s.process.Start(); err != nil {
		return err
	}
	s.frozen.Store(false)
	exited, process := make(chan struct{}), s.process
	s.exited = exited
	go func() {
		defer close(exited)
		_ = process.Wait() //nolint:errcheck // that it ended is all that matters
	}()
	return s.listening(&output)
}

// listening waits until the server says that its port is its own. That somebody
// listens there would say nothing: another test's server may have taken it.
func (s *Server) listening(output *bytes.Buffer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), startTime)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.exited:
			return fmt.Errorf("redis-server ended: %s%s", output, s.log())
		case <-ctx.Done():
			return fmt.Errorf("redis-server on %s does not answer after %v", s.Addr, startTime)
		case <-tick.C:
			for line := range bytes.Lines(s.log()) {
				// A line starts with the process: earlier ones have logged here too.
				if bytes.HasPrefix(line, fmt.Append(nil, s.process.Process.Pid, ":")) &&
					(bytes.Contains(line, []byte("Ready to accept connections")) || bytes.Contains(line, []byte("Sentinel ID is"))) {
					return nil
				}
			}
		}
	}
}

// log is what the server has logged; there may be nothing yet.
func (s *Server) log() []byte {
	text, _ := os.ReadFile(filepath.Join(s.Dir, "server.log")) //nolint:errcheck // see above
	return text
}

// Kill ends the process at once, as kill -9 does.
func (s *Server) Kill() {
	if s.process == nil || s.process.Process == nil || s.exited == nil {
		return
	}
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Errorf("ending redis-server: %v", err)
	}
	<-s.exited
}

// Signal sends a signal to the process, such as [Stop].
func (s *Server) Signal(signal os.Signal) {
	s.tb.Helper()
	require.NoError(s.tb, s.process.Process.Signal(signal))
	s.frozen.Store(signal == Stop)
}

// IsFrozen reports whether the process was sent [Stop], and nothing since.
func (s *Server) IsFrozen() bool { return s.frozen.Load() }

// Options are what a client needs to be let in as administrator.
func (s *Server) Options() *redis.Options {
	options := &redis.Options{Addr: s.Addr, DisableIdentity: true, ContextTimeoutEnabled: true}
	if secure := s.options.Secure; secure != nil {
		options.TLSConfig = secure.TLS()
	}
	if s.asks {
		options.Username, options.Password = AdminUser, AdminPassword
	}
	return options
}

// Client returns an administrator's client that is closed with the test.
func (s *Server) Client() *redis.Client {
	s.tb.Helper()
	client := redis.NewClient(s.Options())
	s.tb.Cleanup(func() { _ = client.Close() }) //nolint:errcheck // a test may have closed it
	return client
}

// FreePort returns a port on which nothing listens at the moment. It is below
// those that systems give to outgoing connections, one of which could take the
// port of a server that is down for a while.
func FreePort(tb testing.TB) int {
	tb.Helper()
	const first, beyond = 15_000, 32_000
	var config net.ListenConfig
	for range beyond - first {
		port := first + rand.IntN(beyond-first) //nolint:gosec // not a secret
		listener, err := config.Listen(context.WithoutCancel(tb.Context()), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		require.NoError(tb, listener.Close())
		return port
	}
	tb.Fatalf("no port from %d to %d is free", first, beyond)
	return 0
}

// eventually polls until condition holds or ctx ends.
func eventually(ctx context.Context, tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("still not after %v: %s", startTime, what)
		}
	}
}
