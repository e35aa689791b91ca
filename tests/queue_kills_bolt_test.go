package tests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// openQueueFile opens a file with queues.
func openQueueFile(path string) (*bbolt.DB, *backends.BoltBackend, *enhanced.EnhancedConfig, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Minute})
	if err != nil {
		return nil, nil, nil, err
	}
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	b, err := backends.NewBoltBackend(db, config, nil)
	return db, b, config, err
}

// runServe is the process that is killed: a server on a file, which prints its
// address.
func runServe(path string) {
	_, b, config, err := openQueueFile(path)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	manager := enhanced.NewEnhancedLockManager(b, config, nil)
	if err := manager.Start(ctx); err != nil {
		panic(err)
	}
	fmt.Println("http://" + listener.Addr().String())
	server := http.Server{Handler: web.NewHandler(manager, web.Options{LoopbackOnly: true}), ReadHeaderTimeout: time.Minute}
	panic(server.Serve(listener))
}

// killedServer is a server process on a file.
type killedServer struct {
	path   string
	client *client.Client
	kill   func()
}

func startServe(t *testing.T, path string) *killedServer {
	t.Helper()
	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, path)
	child.Env = append(os.Environ(), childMode+"=serve")
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	s := &killedServer{path: path, kill: sync.OnceFunc(func() {
		_ = child.Process.Kill() //nolint:errcheck // it may have ended
		_ = child.Wait()         //nolint:errcheck // it was killed
	})}
	t.Cleanup(s.kill)
	address, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err, "the server has not started")
	s.client, err = client.New(strings.TrimSpace(address))
	require.NoError(t, err)
	return s
}

// clientOf is somebody who waits at a server that is killed.
type clientOf struct {
	name, path string
	// stays is set when it asks again, with the same request, once the server is
	// back.
	stays bool
}

func (c clientOf) request() api.AcquireRequest {
	r := api.AcquireRequest{
		Repository: "org/app", Path: c.path, Workspace: "default", Owner: api.Owner{User: c.name},
		RequestID: c.name, Priority: "normal",
	}
	if !c.stays {
		r.Timeout = "500ms" // it may be granted the lock when nobody is there
	}
	return r
}

// release gives a lock back, which may have been done before without an answer.
func (c clientOf) release(ctx context.Context, at *client.Client, lock api.Lock) error {
	_, err := at.Unlock(ctx, api.UnlockRequest{ID: lock.ID, Owner: &api.Owner{User: c.name}})
	if p := (*api.Problem)(nil); errors.As(err, &p) && p.Code == enhanced.ErrCodeLockNotFound {
		return nil
	}
	return err
}

// A server with callers that wait is killed while a lock is handed over, and
// started again. Those that ask again get their turn, each once; those that don't
// are passed over.
func TestQueueOfAServerThatIsKilled(t *testing.T) {
	t.Parallel()
	for range backendtest.Rounds(20) {
		testServerKill(t)
	}
}

// serverKill is a server that is killed, and the one that comes after it.
type serverKill struct {
	path      string
	first     *client.Client
	second    *client.Client // once restarted is closed
	restarted chan struct{}
	told      chan api.Lock // the grants that callers were told of
}

func testServerKill(t *testing.T) {
	t.Helper()
	server := startServe(t, filepath.Join(t.TempDir(), "atlantis.db"))
	k := &serverKill{path: server.path, first: server.client, restarted: make(chan struct{}), told: make(chan api.Lock, 10)}
	var calls sync.WaitGroup
	defer calls.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	busy, quiet := clientOf{"holder0", "busy", true}, clientOf{"holder1", "quiet", true}
	held := make(map[clientOf]api.Lock)
	for _, holder := range []clientOf{busy, quiet} {
		lock, err := k.first.Acquire(ctx, holder.request())
		require.NoError(t, err)
		held[holder] = lock
	}
	for i, c := range []clientOf{
		{"stays0", "busy", true}, {"gone0", "busy", false}, {"stays1", "busy", true}, {"gone1", "busy", false},
		{"stays2", "busy", true}, {"gone2", "quiet", false}, {"stays3", "quiet", true},
	} {
		calls.Go(func() {
			if err := k.call(ctx, c); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		})
		backendtest.Eventually(t, "it waits", func() bool {
			queue, err := k.first.Queue(ctx, "org/app")
			require.NoError(t, err)
			return len(queue.Waiters) == i+1
		})
	}
	backendtest.Together(2, func(i int) {
		if i == 0 {
			_ = busy.release(ctx, k.first, held[busy]) //nolint:errcheck // it is asked again
			return
		}
		moment := time.NewTimer(time.Duration(rand.IntN(5_000)) * time.Microsecond) //nolint:gosec // no secret
		<-moment.C
		server.kill()
	})
	again := startServe(t, k.path)
	k.second = again.client
	close(k.restarted)
	for holder, lock := range held {
		require.NoError(t, holder.release(ctx, k.second, lock))
	}
	calls.Wait()
	backendtest.Eventually(t, "nobody waits or holds", func() bool {
		queue, err := k.second.Queue(ctx, "org/app")
		require.NoError(t, err)
		locks, err := k.second.List(ctx, api.Filter{})
		require.NoError(t, err)
		return len(queue.Waiters) == 0 && len(locks.Locks) == 0
	})
	again.kill()
	close(k.told)
	k.judge(t)
}

// call waits for a lock and gives it back, at the server that comes next if the
// first one dies, and if the caller stays.
func (k *serverKill) call(ctx context.Context, c clientOf) error {
	at := k.first
	lock, err := at.Wait(ctx, c.request())
	if !c.stays {
		return nil
	}
	moved := false
	next := func() error {
		select {
		case <-k.restarted:
			at, moved = k.second, true
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		if err := next(); err != nil {
			return err
		}
		if lock, err = at.Wait(ctx, c.request()); err != nil {
			return err
		}
	}
	k.told <- lock
	if err = c.release(ctx, at, lock); err == nil || moved {
		return err
	}
	if err := next(); err != nil {
		return err
	}
	return c.release(ctx, at, lock)
}

// judge judges the file that the last server has left.
func (k *serverKill) judge(t *testing.T) {
	t.Helper()
	db, b, _, err := openQueueFile(k.path)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	defer func() { require.NoError(t, b.Close()) }()
	page, err := b.ReadLog(t.Context(), "org/app", 0, 10_000)
	require.NoError(t, err)
	priorities, granted, passedOver := make(map[string]enhanced.Priority), make(map[string]string), make(map[string]bool)
	for _, r := range page.Records {
		if r.RequestID != "" {
			priorities[r.RequestID] = enhanced.PriorityNormal
		}
		switch {
		case r.Before == nil && r.After != nil:
			require.NotContains(t, granted, r.RequestID, "record %d: it was granted twice", r.Sequence)
			granted[r.RequestID] = r.LockID
		case r.Type == enhanced.EventCancelled && r.Actor == enhanced.SystemStore:
			passedOver[r.RequestID] = true
		}
	}
	told := 0
	for lock := range k.told {
		told++
		name, _ := strings.CutPrefix(lock.OwnerID, "user:")
		require.Equal(t, lock.ID, granted[name], "%s was told of a lock that is lost", lock.OwnerID)
	}
	require.Equal(t, 4, told, "each of those that stay has had its turn")
	require.True(t, passedOver["gone2"])
	require.NotContains(t, granted, "gone2")
	require.Empty(t, history.JudgeQueue(page.Records, priorities))
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	t.Logf("%d records, %d grants, %d passed over", len(page.Records), len(granted), len(passedOver))
}
