package backends_test

import (
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A waiter of a process that has died will be passed over, so nobody is refused
// because of it, and it is in no picture.
func TestBoltDeadlockWithADeadProcess(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, queueOn(), nil)
	require.NoError(t, err)
	for owner, path := range map[string]string{"ann": "vpc", "bob": "db"} {
		_, err := b.AcquireLock(t.Context(), by("org/app", path, owner))
		require.NoError(t, err)
	}
	answers := waits(t, b, by("org/app", "db", "ann"))
	path := filepath.Join(t.TempDir(), "of-a-dead-process.db")
	require.NoError(t, db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(path, 0o600) }))
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-answers, enhanced.ErrClosed)
	require.NoError(t, db.Close())

	preventing := queueOn()
	preventing.DeadlockPrevention = true
	after := openBolt(t, path, preventing)
	waits(t, after, by("org/app", "vpc", "bob")) // ann's would close the circle
	graph, err := after.WaitForGraph(t.Context())
	require.NoError(t, err)
	require.Empty(t, graph.Cycles())
	// Once she waits again there is one.
	_, err = after.AcquireLock(t.Context(), by("org/app", "db", "ann"))
	require.ErrorIs(t, err, enhanced.ErrDeadlock)
}

// A user can wait in several repositories. Prevention looks at one, detection at
// all, and its step at each wait in its own.
func TestBoltDeadlockOverRepositories(t *testing.T) {
	t.Parallel()
	config := queueOn()
	config.DeadlockPrevention = true
	b := openBolt(t, filepath.Join(t.TempDir(), "atlantis.db"), config)
	for owner, repository := range map[string]string{"ann": "org/app", "bob": "org/infra"} {
		_, err := b.AcquireLock(t.Context(), by(repository, ".", owner))
		require.NoError(t, err)
	}
	ann := waits(t, b, by("org/infra", ".", "ann"))
	waits(t, b, by("org/app", ".", "bob"))
	graph, err := b.WaitForGraph(t.Context())
	require.NoError(t, err)
	cycles := graph.Cycles()
	require.Len(t, cycles, 1)
	require.Equal(t, "user:ann", cycles[0][0].Owner)

	report, err := b.EndDeadlock(t.Context(), enhanced.DeadlockEnding{
		Cycle: cycles[0], Victim: &cycles[0][0].Waiter, Policy: enhanced.PolicyOldest,
	})
	require.NoError(t, err)
	require.Equal(t, enhanced.DeadlockVictim, report.Outcome)
	require.ErrorIs(t, <-ann, enhanced.ErrDeadlock)
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/infra", report.Cycle[0].Since)
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, report.Cycle[1].Resource, records[0].Deadlock.Cycle[1].Resource)
	require.Equal(t, "org/app", records[0].Deadlock.Cycle[1].Resource.Namespace)
	again, err := b.EndDeadlock(t.Context(), enhanced.DeadlockEnding{Cycle: cycles[0], Policy: enhanced.PolicyNone})
	require.NoError(t, err)
	require.Nil(t, again)
}
