package tests

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A process is killed at a random moment under load, again and again, on one Redis
// server. Whatever it was told is there; nothing is half done.
func TestRedisKilledUnderLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	admin := server.Client()
	b := backends.NewRedisBackend(admin, nil, nil)
	defer func() { require.NoError(t, b.Close()) }()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for secrets
	judge := &crashJudge{}
	for round := range backendtest.Rounds(200) {
		run := &crashRun{Seed: seed, Round: round}
		run.keepUnlessRight(t, func() {
			run.killOn(t, onRedis+server.Addr, 500+random.IntN(1000))
			// What it has sent arrives, although it is dead: until the server has
			// seen that its connections are gone.
			backendtest.Eventually(t, "the server has let the process go", func() bool {
				list, err := admin.ClientList(t.Context()).Result()
				require.NoError(t, err)
				return !strings.Contains(list, "name="+loadName)
			})
			violations, err := b.Verify(t.Context())
			require.NoError(t, err)
			require.Empty(t, violations)
			judge.compare(t, b, run.Steps)
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d contended grants, %d calls without an answer", judge.contended, judge.open)
}
