package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/stretchr/testify/require"
)

// pullLoad is pull requests that take and release few locks all the time, as
// Atlantis does: a lock that they are told to have is theirs, however they got it.
type pullLoad struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup
	holders []atomic.Int64 // the pull request that believes it holds a path

	counts pullCounts

	mu     sync.Mutex
	failed error
}

type pullCounts struct {
	// double are grants of what another believed to hold, lost are locks that
	// their holder did not have any more when it released them.
	operations, grants, refusals, double, lost atomic.Int64
}

func startPullLoad(t *testing.T, databases ...db.Database) *pullLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &pullLoad{cancel: cancel, holders: make([]atomic.Int64, 4)}
	t.Cleanup(l.stop)
	for worker := range 8 {
		l.workers.Go(func() {
			for ctx.Err() == nil {
				if err := l.once(databases[worker%len(databases)], worker+1); err != nil {
					l.mu.Lock()
					l.failed = errors.Join(l.failed, err)
					l.mu.Unlock()
					return
				}
			}
		})
	}
	return l
}

func (l *pullLoad) stop() {
	l.cancel()
	l.workers.Wait()
}

func (l *pullLoad) once(database db.Database, pull int) error {
	n := rand.IntN(len(l.holders))
	lock := lockOf(project, pull, fmt.Sprintf("load%d", n))
	acquired, held, err := database.TryLock(lock)
	l.counts.operations.Add(1)
	switch {
	case err != nil:
		return fmt.Errorf("lock by %d: %w", pull, err)
	case !acquired && held.Pull.Num != pull:
		l.counts.refusals.Add(1)
		return nil
	}
	l.counts.grants.Add(1)
	if !l.holders[n].CompareAndSwap(0, int64(pull)) {
		l.counts.double.Add(1)
	}
	l.holders[n].CompareAndSwap(int64(pull), 0)
	released, err := database.UnlockIfOwnedByPull(lock.Project, lock.Workspace, pull)
	l.counts.operations.Add(1)
	if err != nil {
		return fmt.Errorf("unlock by %d: %w", pull, err)
	}
	if released == nil {
		l.counts.lost.Add(1)
	}
	return nil
}

// requireFine waits for some more operations, none of which may fail.
func (l *pullLoad) requireFine(t *testing.T, operations int64) {
	t.Helper()
	target := l.counts.operations.Load() + operations
	require.Eventually(t, func() bool { return l.err() != nil || l.counts.operations.Load() >= target }, patience, poll)
	require.NoError(t, l.err())
}

func (l *pullLoad) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}
