package backends_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A server that answers nothing holds no caller past its context.
func TestRedisFrozenServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	options := server.Options()
	options.ReadTimeout = 10 * serverPatience // nothing else ends a call
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	b := openRedis(t, client, nil)
	held, err := b.AcquireLock(t.Context(), by("org/app", "held", "ann"))
	require.NoError(t, err)
	server.Signal(redistest.Stop)
	defer server.Signal(redistest.Continue)
	const patience = 100 * time.Millisecond
	for name, call := range map[string]func(context.Context) error{
		"acquire": func(ctx context.Context) error { _, err := b.AcquireLock(ctx, by("org/app", ".", "ann")); return err },
		"release": func(ctx context.Context) error { return b.ReleaseLock(ctx, held.ID) },
		"list":    func(ctx context.Context) error { _, err := b.ListLocks(ctx); return err },
		"health":  b.HealthCheck,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		start := time.Now()
		err := call(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		require.Less(t, time.Since(start), serverPatience, name)
		require.Equal(t, name == "acquire" || name == "release", errors.Is(err, enhanced.ErrOutcomeUnknown), name)
	}
}

// A dead server is told apart from one that may have acted.
func TestRedisDeadServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	b := openRedis(t, server.Client(), nil)
	_, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	server.Kill()
	backendtest.Eventually(t, "connections are seen to be dead", func() bool {
		_, _, err = b.TryAcquireLock(t.Context(), by("org/app", ".", "ann"))
		require.ErrorIs(t, err, enhanced.ErrBackend)
		return !errors.Is(err, enhanced.ErrOutcomeUnknown)
	})
	require.NoError(t, server.Run())
	_, err = b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
}

// lossy is a connection that loses the replies to scripts: the server has done
// what it was asked, and the client hears that the connection is gone.
type lossy struct {
	net.Conn
	// lose is called when a reply could be lost, and says whether it is.
	lose    func() bool
	waiting bool
}

func (l *lossy) Write(p []byte) (int, error) {
	l.waiting = bytes.Contains(p, []byte("evalsha"))
	return l.Conn.Write(p)
}

func (l *lossy) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err == nil && l.waiting && l.lose() {
		_ = l.Close()
		return 0, io.EOF
	}
	return n, err
}

// openLossy makes a backend whose replies get lost.
func openLossy(t *testing.T, server *redistest.Server, lose func() bool) *backends.RedisBackend {
	t.Helper()
	return openRedis(t, lossyClient(t, server, lose), nil)
}

func lossyClient(t *testing.T, server *redistest.Server, lose func() bool) *redis.Client {
	t.Helper()
	options := server.Options()
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, network, addr)
		return &lossy{Conn: conn, lose: lose}, err
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// After a lost reply the outcome is unknown, and the same request gets the lock
// that it got.
func TestRedisLostReply(t *testing.T) {
	t.Parallel()
	var lose atomic.Bool
	b := openLossy(t, redistest.Start(t, redistest.Options{}), lose.Load)
	require.NoError(t, b.HealthCheck(t.Context()))
	r := by("org/app", ".", "ann")
	r.ID = "one"
	lose.Store(true)
	_, _, err := b.TryAcquireLock(t.Context(), r)
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	lose.Store(false)
	lock, acquired, err := b.TryAcquireLock(t.Context(), r)
	require.NoError(t, err)
	require.True(t, acquired)
	lose.Store(true)
	require.ErrorIs(t, b.ReleaseLock(t.Context(), lock.ID), enhanced.ErrOutcomeUnknown)
	lose.Store(false)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	page, err := b.ReadLog(t.Context(), "org/app", 0, 10)
	require.NoError(t, err)
	require.Len(t, page.Records, 2, "each was done once")
}

// The client library sends nothing twice by itself: a forced release would end
// the lock of whoever came next.
func TestRedisSendsOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	other := openRedis(t, server.Client(), nil)
	var armed atomic.Bool
	b := openLossy(t, server, func() bool {
		if !armed.CompareAndSwap(true, false) {
			return false
		}
		_, err := other.AcquireLock(context.Background(), by("org/app", ".", "bob"))
		return err == nil
	})
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID)) // the server knows the script now
	lock, err = b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	armed.Store(true)
	_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true, Actor: "user:eve", Reason: "test"})
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	require.False(t, armed.Load())
	held, err := b.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, "user:bob", held.Owner)
}

// More processes than connections get an answer or an error in time, never
// both, and are served when there are fewer.
func TestRedisConnectionsExhausted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Args: []string{"--maxclients", "8"}})
	const processes = 32
	var granted, failed atomic.Int64
	var tried sync.WaitGroup
	tried.Add(processes)
	backendtest.Together(processes, func(i int) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		client := redis.NewClient(server.Options())
		defer client.Close()
		b := backends.NewRedisBackend(client, nil, nil)
		defer b.Close()
		_, acquired, err := b.TryAcquireLock(ctx, by("org/app", ".", fmt.Sprint("user", i)))
		switch {
		case acquired:
			granted.Add(1)
		case err != nil:
			failed.Add(1)
			if !errors.Is(err, enhanced.ErrBackend) && !errors.Is(err, enhanced.ErrTimeout) {
				t.Error(err)
			}
		}
		tried.Done()
		tried.Wait() // nobody gives a connection back before
	})
	require.LessOrEqual(t, granted.Load(), int64(1))
	require.Positive(t, failed.Load(), "the server had enough connections for all; the run is void")
	b := openRedis(t, server.Client(), nil)
	backendtest.Eventually(t, "connections are free", func() bool {
		_, acquired, err := b.TryAcquireLock(t.Context(), by("org/app", "again", "ann"))
		return err == nil && acquired
	})
}

// Close ends what the backend has started, and leaves the client as it was. The
// package's main looks for goroutines.
func TestRedisClose(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := server.Client()
	before := connections(t, server)
	b := backends.NewRedisBackend(client, nil, nil)
	for range 5 {
		_, err := b.Subscribe(t.Context(), nil)
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, connections(t, server), before+5)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	require.ErrorIs(t, b.HealthCheck(t.Context()), enhanced.ErrClosed)
	require.NoError(t, client.Ping(t.Context()).Err())
	backendtest.Eventually(t, "subscriptions are gone", func() bool { return connections(t, server) <= before+1 })
}

// connections counts the clients of a server.
func connections(t *testing.T, server *redistest.Server) int {
	t.Helper()
	client := redis.NewClient(server.Options())
	defer client.Close()
	list, err := client.ClientList(t.Context()).Result()
	require.NoError(t, err)
	return strings.Count(list, "\n") - 1
}
