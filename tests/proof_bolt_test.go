package tests

import (
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A run with less than this proves nothing and fails.
const (
	leastContended = 20
	leastUnknown   = 1
)

// uncleanDelay is an UncleanReleaseDelay as long as leases are.
const uncleanDelay = 30 * time.Millisecond

// Many clients want few locks, with short leases, and with contexts that end at
// any time. What they are answered must be what one lock after another would
// have answered; the store's log and its rules must agree.
func TestProofBolt(t *testing.T) {
	var total history.Verdict
	answered := make(map[history.Kind]map[history.Answer]int)
	first := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	for round := range backendtest.Rounds(200) {
		seed := first + uint64(round) //nolint:gosec // small
		verdict, h := proveBolt(t, seed, round)
		t.Logf("seed %d: %d operations, %d grants, %d contended, %d unknown outcomes",
			seed, len(h.Operations), verdict.Grants, verdict.Contended, verdict.Unknown)
		total.Contended += verdict.Contended
		total.Unknown += verdict.Unknown
		for _, op := range h.Operations {
			if answered[op.Kind] == nil {
				answered[op.Kind] = make(map[history.Answer]int)
			}
			answered[op.Kind][op.Answer]++
		}
	}
	t.Logf("%d contended grants, %d unknown outcomes; %v", total.Contended, total.Unknown, answered)
	require.GreaterOrEqual(t, total.Contended, leastContended, "contended grants; the run is void")
	require.GreaterOrEqual(t, total.Unknown, leastUnknown, "unknown outcomes; the run is void")
	for _, kind := range []history.Kind{
		history.Acquire, history.Release, history.ReleaseOwned, history.ForceRelease,
		history.Refresh, history.Transfer, history.Lookup, history.ReleaseByPull,
	} {
		require.Positive(t, answered[kind][history.Done], "%s did nothing; the run is void", kind)
	}
}

// proveBolt runs a workload on a new store and judges it. Every other round a
// manager ends leases in the background, every third has no mirror of stock's records,
// and every fifth keeps resources closed for a while after the end of a lease.
func proveBolt(t *testing.T, seed uint64, round int) (*history.Verdict, *history.History) {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = round%3 != 0
	if round%5 == 0 {
		config.UncleanReleaseDelay = uncleanDelay
	}
	b, err := backends.NewBoltBackend(file, config, nil)
	require.NoError(t, err)
	manager := enhanced.NewEnhancedLockManager(b, config, nil)
	if round%2 == 1 {
		require.NoError(t, manager.Start(t.Context()))
	}

	h, err := history.Workload{Seed: seed, Delay: config.UncleanReleaseDelay}.Run(t.Context(), b)
	verdict := h.Judge()
	if err != nil {
		verdict.Problems = append(verdict.Problems, err.Error())
	}
	logs, err := h.ReadLog(t.Context(), b)
	require.NoError(t, err)
	verdict.Problems = append(verdict.Problems, h.JudgeLog(logs)...)
	violations, err := backends.VerifyBolt(file)
	require.NoError(t, err)
	for _, v := range violations {
		verdict.Problems = append(verdict.Problems, fmt.Sprintf("the store breaks %q at %s: %s", v.Rule, v.Record, v.Detail))
	}
	h.Keep(t, verdict, history.Evidence{Name: "atlantis.db", Write: func(w io.Writer) error {
		return file.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(w); return err })
	}})

	require.NoError(t, manager.Stop(t.Context()))
	require.NoError(t, b.Close())
	require.NoError(t, file.Close())
	return verdict, h
}
