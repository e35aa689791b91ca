package tests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// handleLease is that of the handles of these tests.
const handleLease = 3 * time.Second

func handleRequest(user string) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Resource: enhanced.ProjectResource(models.NewProject("org/app", "envs/prod", ""), "default"),
		User:     models.User{Username: user}, Timeout: handleLease,
	}
}

// fencedWrite is a write of a resource that refuses tokens older than one it has seen. It
// counts what it accepts and refuses of each token.
const fencedWrite = `
local newest = tonumber(redis.call('GET', KEYS[1]) or '0')
local accepted = tonumber(ARGV[1]) >= newest
if accepted then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('HINCRBY', KEYS[2], (accepted and 'accepted:' or 'refused:') .. ARGV[1], 1)
return accepted and 1 or 0`

func writeFenced(ctx context.Context, client *redis.Client, token int64) (accepted bool, err error) {
	return client.Eval(ctx, fencedWrite, []string{"test:newest", "test:writes"}, token).Bool()
}

// runHold is a process that holds a lock and writes as long as it has it.
func runHold(addr string) int {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	manager := enhanced.NewEnhancedLockManager(backends.NewRedisBackend(client, nil, nil), nil, nil)
	h, err := enhanced.AcquireHandle(ctx, manager, handleRequest("alice"), enhanced.HandleOptions{})
	if err != nil {
		panic(err)
	}
	for h.Check() == nil {
		accepted, err := writeFenced(ctx, client, h.Token())
		if err != nil {
			panic(err)
		}
		if !accepted {
			fmt.Println("refused")
		}
	}
	fmt.Println(context.Cause(h.Context()))
	fmt.Println("released:", h.Release(ctx))
	return 0
}

// A holder is stopped for two leases, in which another process takes the lock.
// When it wakes up it knows before it writes again; a write for which it had
// checked before it was stopped is refused by its token.
func TestHandleOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := server.Client()
	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, server.Addr)
	child.Env = append(os.Environ(), childMode+"=hold")
	child.Stderr = os.Stderr
	var output bytes.Buffer
	child.Stdout = &output
	require.NoError(t, child.Start())
	require.Eventually(t, func() bool { return client.Exists(t.Context(), "test:newest").Val() == 1 }, 20*time.Second, time.Millisecond)
	// It lives, and its lease is renewed.
	b := backends.NewRedisBackend(client, nil, nil)
	defer b.Close()
	manager := enhanced.NewEnhancedLockManager(b, nil, nil)
	first, err := b.LookupLock(t.Context(), handleRequest("").Resource)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		lock, err := b.LookupLock(t.Context(), first.Resource)
		require.NoError(t, err)
		require.Equal(t, first.ID, lock.ID)
		return lock.ExpiresAt.Sub(lock.AcquiredAt) > 2*handleLease
	}, 20*time.Second, 10*time.Millisecond)

	stopped := time.Now()
	require.NoError(t, child.Process.Signal(redistest.Stop))
	var bob *enhanced.Handle
	require.Eventually(t, func() bool {
		bob, err = enhanced.AcquireHandle(t.Context(), manager, handleRequest("bob"), enhanced.HandleOptions{})
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	require.Greater(t, bob.Token(), first.Version)
	accepted, err := writeFenced(t.Context(), client, bob.Token())
	require.NoError(t, err)
	require.True(t, accepted)
	before, err := client.HGetAll(t.Context(), "test:writes").Result()
	require.NoError(t, err)
	<-time.After(2*handleLease - time.Since(stopped))
	require.NoError(t, child.Process.Signal(redistest.Continue))
	require.NoError(t, child.Wait())

	says := output.String()
	require.Contains(t, says, "user alice lost its lock "+first.ID)
	require.Contains(t, says, "released: user alice lost its lock")
	after, err := client.HGetAll(t.Context(), "test:writes").Result()
	require.NoError(t, err)
	old := fmt.Sprint(first.Version)
	require.Equal(t, before["accepted:"+old], after["accepted:"+old], "no write with the old token")
	require.LessOrEqual(t, strings.Count(says, "refused"), 1, "it checks before each write")
	require.NoError(t, bob.Check(), "its lock is untouched")
	require.NoError(t, bob.Release(t.Context()))
}

// Renewals get through a network that is cut for less than a lease, and the
// holder knows in time when it is cut for longer.
func TestHandleThroughACutNetwork(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	patience := redistest.Patience{Away: proxy.IsCut, Wait: 200 * time.Millisecond}
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr, Dialer: patience.Dial, DisableIdentity: true, MaxRetries: -1})
	defer client.Close()
	behind := backends.NewRedisBackend(client, nil, nil)
	defer behind.Close()
	direct := backends.NewRedisBackend(server.Client(), nil, nil)
	defer direct.Close()
	lookup := func() *enhanced.EnhancedLock {
		lock, err := direct.LookupLock(t.Context(), handleRequest("").Resource)
		require.NoError(t, err)
		return lock
	}
	request := handleRequest("alice")
	request.Timeout = 2 * handleLease
	h, err := enhanced.AcquireHandle(t.Context(), enhanced.NewEnhancedLockManager(behind, nil, nil), request, enhanced.HandleOptions{})
	require.NoError(t, err)
	for range 2 {
		proxy.Cut()
		// A renewal is due within it, at a third. Its repetitions, and the waits between them,
		// take up to a sixth each, of what is left.
		<-time.After(2 * request.Timeout / 5)
		require.Positive(t, proxy.Dropped.Load())
		proxy.Heal()
		expires := lookup().ExpiresAt
		require.Eventually(t, func() bool { return lookup().ExpiresAt.After(*expires) }, 20*time.Second, 5*time.Millisecond)
		require.NoError(t, h.Check())
	}
	proxy.Cut()
	cut := time.Now()
	<-h.Done()
	require.Less(t, time.Since(cut), request.Timeout)
	require.ErrorIs(t, h.Check(), enhanced.ErrLockLost)
	require.Equal(t, h.Lock().ID, lookup().ID, "the store has not given it away yet")
	proxy.Heal()
	require.NoError(t, h.Release(t.Context()), "so it could be released")
}
