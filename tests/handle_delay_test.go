package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// releaseDelay is the UncleanReleaseDelay of these tests.
const releaseDelay = 2 * time.Second

func delayedConfig() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.UncleanReleaseDelay = true, releaseDelay
	return config
}

// runKeep is a process that holds a lock in a file until it is killed.
func runKeep(path string) int {
	ctx := context.Background()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		panic(err)
	}
	b, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		panic(err)
	}
	h, err := enhanced.AcquireHandle(ctx, enhanced.NewEnhancedLockManager(b, nil, nil), handleRequest("alice"), enhanced.HandleOptions{})
	if err != nil {
		panic(err)
	}
	for h.Check() == nil {
		lock, err := b.LookupLock(ctx, h.Lock().Resource)
		if err == nil && lock.ExpiresAt.Sub(lock.AcquiredAt) > handleLease+handleLease/10 {
			break // it was renewed
		}
		<-time.After(10 * time.Millisecond)
	}
	fmt.Println("held")
	<-h.Done()
	return 1
}

// requireDelayed has the next owner wait for a lock whose holder does nothing any
// more, and checks when it gets it, by the store's clock.
func requireDelayed(t *testing.T, b enhanced.Backend) {
	t.Helper()
	manager := enhanced.NewEnhancedLockManager(b, delayedConfig(), nil)
	bob, err := enhanced.AcquireHandle(t.Context(), manager, handleRequest("bob"), enhanced.HandleOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, bob.Release(t.Context())) }()
	page, err := b.ReadLog(t.Context(), "org/app", 0, 10_000)
	require.NoError(t, err)
	var lapse, ended, granted *enhanced.LogRecord
	for _, r := range page.Records {
		switch r.Type {
		case enhanced.EventTimeout:
			require.Nil(t, lapse)
			lapse = r
		case enhanced.EventReservationEnded:
			require.Nil(t, ended)
			ended = r
		case enhanced.EventGranted:
			require.Nil(t, granted)
			granted = r
		}
	}
	require.NotNil(t, lapse)
	require.Equal(t, "user:alice", lapse.Before.Owner)
	require.Equal(t, enhanced.ReasonUncleanRelease, lapse.Reason)
	opens := lapse.Before.ExpiresAt.Add(releaseDelay)
	for _, r := range []*enhanced.LogRecord{ended, granted} {
		require.NotNil(t, r)
		require.False(t, r.Time.Before(opens), "%s at %v, the delay ends at %v", r.Type, r.Time, opens)
	}
	require.Equal(t, bob.Token(), granted.Token)
	violations, err := b.(enhanced.Verifier).Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// A process is stopped that holds a lock in Redis.
func TestDelayAfterAStoppedProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := server.Client()
	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, server.Addr)
	child.Env = append(os.Environ(), childMode+"=hold")
	child.Stderr = os.Stderr
	require.NoError(t, child.Start())
	require.Eventually(t, func() bool { return client.Exists(t.Context(), "test:newest").Val() == 1 }, 20*time.Second, time.Millisecond)
	require.NoError(t, child.Process.Signal(syscall.SIGSTOP))
	b := backends.NewRedisBackend(client, delayedConfig(), nil)
	defer b.Close()
	requireDelayed(t, b)
	require.NoError(t, child.Process.Signal(syscall.SIGCONT))
	require.NoError(t, child.Wait(), "it knows that it has lost the lock")
}

// A process is killed that holds a lock in a file, which another one opens then.
func TestDelayAfterAKilledProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, path)
	child.Env = append(os.Environ(), childMode+"=keep")
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	_, err = output.Read(make([]byte, 1))
	require.NoError(t, err, "it holds the lock")
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 10 * time.Second})
	require.NoError(t, err)
	defer db.Close()
	b, err := backends.NewBoltBackend(db, delayedConfig(), nil)
	require.NoError(t, err)
	defer b.Close()
	requireDelayed(t, b)
}
