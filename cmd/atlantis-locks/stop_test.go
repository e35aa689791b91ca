package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// SIGTERM under load: the server ends well, every lock that was acknowledged is
// in the file, and every request got an answer or a refused connection.
func TestStopLosesNothing(t *testing.T) {
	directory := t.TempDir()
	addressFile := filepath.Join(directory, "addr")
	var log bytes.Buffer
	server := exec.Command("atlantis-locks", "serve", "--data-dir", directory, "--listen", "127.0.0.1:0", "--address-file", addressFile)
	server.Stderr = &log
	require.NoError(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill() }) // it has ended by then
	var address string
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(addressFile)
		address = strings.TrimSpace(string(content))
		return err == nil
	}, 20*time.Second, 5*time.Millisecond, "the server does not listen")

	const callers, enough = 8, 200
	locker, err := client.New(address)
	require.NoError(t, err)
	acknowledged := make(chan api.Lock, 1)
	var callersDone sync.WaitGroup
	for caller := range callers {
		callersDone.Go(func() {
			for i := 0; ; i++ {
				lock, err := locker.Acquire(context.Background(), api.AcquireRequest{
					Repository: "acme/infra", Path: fmt.Sprintf("p%d/%d", caller, i), Workspace: "default",
					Owner: api.Owner{User: "load"},
				})
				if err != nil {
					unreachable := new(client.UnreachableError)
					require.ErrorAs(t, err, &unreachable)
					return
				}
				acknowledged <- lock
			}
		})
	}
	go func() { callersDone.Wait(); close(acknowledged) }()

	locks := map[string]string{}
	for lock := range acknowledged {
		locks[lock.ID] = lock.Path
		if len(locks) == enough {
			require.NoError(t, server.Process.Signal(syscall.SIGTERM))
		}
	}
	require.NoError(t, server.Wait(), "%s", &log)
	require.GreaterOrEqual(t, len(locks), enough)
	require.NoFileExists(t, addressFile)

	db, err := bbolt.Open(filepath.Join(directory, dataFileName), 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	defer db.Close()
	backend, err := backends.NewBoltBackend(db, enhanced.DefaultConfig(), nil)
	require.NoError(t, err)
	defer backend.Close()
	stored, err := backend.ListLocks(t.Context())
	require.NoError(t, err)
	inFile := map[string]string{}
	for _, lock := range stored {
		inFile[lock.ID] = lock.Resource.Path
	}
	for id, path := range locks {
		require.Equal(t, path, inFile[id], "lock %s was acknowledged", id)
	}
}
