package mutants_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/mutants"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// limit is how long a mutant may go unseen.
const limit = time.Minute

func TestMutantsAreCaught(t *testing.T) {
	for _, mutant := range mutants.All() {
		t.Run(mutant.Name, func(t *testing.T) {
			start := time.Now()
			seed := uint64(start.UnixNano()) //nolint:gosec // any number will do
			rounds := uint64(0)
			var verdict *history.Verdict
			for verdict == nil || verdict.Legal() {
				require.Less(t, time.Since(start), limit, "not caught in %d rounds from seed %d", rounds, seed)
				verdict, _ = run(t, seed+rounds, mutant.Wrap)
				rounds++
			}
			t.Logf("caught after %v and %d rounds: %.400s", time.Since(start), rounds, verdict.Problems[0])
			// The same on the store without the bug.
			for i := range rounds {
				verdict, h := run(t, seed+i, func(b enhanced.Backend) enhanced.Backend { return b })
				h.Keep(t, verdict)
			}
		})
	}
}

func run(t *testing.T, seed uint64, wrap func(enhanced.Backend) enhanced.Backend) (*history.Verdict, *history.History) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	h, err := history.Workload{Seed: seed}.Run(context.Background(), wrap(b))
	if err != nil {
		t.Log(err)
	}
	require.NoError(t, b.Close())
	require.NoError(t, db.Close())
	return h.Judge(), h
}
