package mutants_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/mutants"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// limit is how long a mutant may go unseen.
const limit = time.Minute

func TestMutantsAreCaught(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	for name, open := range map[string]func(t *testing.T) enhanced.Backend{
		"bbolt": openBolt,
		"redis": func(t *testing.T) enhanced.Backend {
			t.Helper()
			client := server.Client()
			require.NoError(t, client.FlushAll(t.Context()).Err())
			b := backends.NewRedisBackend(client, nil, nil)
			t.Cleanup(func() { require.NoError(t, b.Close()) })
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, mutant := range mutants.All() {
				t.Run(mutant.Name, func(t *testing.T) { requireCaught(t, mutant, open) })
			}
		})
	}
}

// requireCaught runs a mutant until it is caught, and then the same without it.
func requireCaught(t *testing.T, mutant mutants.Mutant, open func(t *testing.T) enhanced.Backend) {
	t.Helper()
	start := time.Now()
	seed := uint64(start.UnixNano()) //nolint:gosec // any number will do
	rounds := uint64(0)
	var verdict *history.Verdict
	for verdict == nil || verdict.Legal() {
		require.Less(t, time.Since(start), limit, "not caught in %d rounds from seed %d", rounds, seed)
		verdict, _ = run(t, seed+rounds, mutant.Wrap(open(t)))
		rounds++
	}
	t.Logf("caught after %v and %d rounds: %.400s", time.Since(start), rounds, verdict.Problems[0])
	for i := range rounds {
		verdict, h := run(t, seed+i, open(t))
		h.Keep(t, verdict)
	}
}

func run(t *testing.T, seed uint64, b enhanced.Backend) (*history.Verdict, *history.History) {
	t.Helper()
	h, err := history.Workload{Seed: seed}.Run(context.Background(), b)
	if err != nil {
		t.Log(err)
	}
	return h.Judge(), h
}

func openBolt(t *testing.T) enhanced.Backend {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, b.Close())
		require.NoError(t, db.Close())
	})
	return b
}
