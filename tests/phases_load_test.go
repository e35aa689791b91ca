package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

// loadPause is the time between two tries of a pull request, next to none with the
// full number of rounds. All try at the same moments, which stock's races need.
func loadPause() time.Duration {
	if backendtest.Rounds(2) == 2 {
		return time.Microsecond
	}
	return 10 * time.Millisecond
}

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
	// twice are grants of what another one was granted too: it believed so then, or
	// the lock was not its holder's any more when it released it.
	operations, grants, refusals, twice atomic.Int64
}

func startPullLoad(t *testing.T, workers int, databases ...db.Database) *pullLoad {
	t.Helper()
	return startLoad(t, loadPause(), workers, databases...)
}

// startEagerLoad is startPullLoad with next to no pause.
func startEagerLoad(t *testing.T, workers int, databases ...db.Database) *pullLoad {
	t.Helper()
	return startLoad(t, time.Microsecond, workers, databases...)
}

func startLoad(t *testing.T, pause time.Duration, workers int, databases ...db.Database) *pullLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &pullLoad{cancel: cancel, holders: make([]atomic.Int64, 3)}
	t.Cleanup(l.stop)
	for worker := range workers {
		l.workers.Go(func() {
			turn := time.NewTicker(pause)
			defer turn.Stop()
			for ctx.Err() == nil {
				<-turn.C
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
	twice := !l.holders[n].CompareAndSwap(0, int64(pull))
	l.holders[n].CompareAndSwap(int64(pull), 0)
	released, err := database.UnlockIfOwnedByPull(lock.Project, lock.Workspace, pull)
	l.counts.operations.Add(1)
	if err != nil {
		return fmt.Errorf("unlock by %d: %w", pull, err)
	}
	if twice || released == nil {
		l.counts.twice.Add(1)
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

// pullCounted are the counts of one moment, or those between two.
type pullCounted struct{ operations, grants, refusals, twice int64 }

func (l *pullLoad) counted() pullCounted {
	c := &l.counts
	return pullCounted{c.operations.Load(), c.grants.Load(), c.refusals.Load(), c.twice.Load()}
}

func (l *pullLoad) since(before pullCounted) pullCounted {
	now := l.counted()
	return pullCounted{
		now.operations - before.operations, now.grants - before.grants, now.refusals - before.refusals,
		now.twice - before.twice,
	}
}

func (c pullCounted) String() string {
	return fmt.Sprintf("%d operations, %d grants, %d of them twice (%.1f%%), %d refusals",
		c.operations, c.grants, c.twice, 100*float64(c.twice)/float64(max(c.grants, 1)), c.refusals)
}
