package backends_test

import (
	"context"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// queueOn is a configuration with the queue on.
func queueOn() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	return config
}

// waits starts calls that wait for a resource, one after the other, and returns
// what they answer. The resource must be held.
func waits(t *testing.T, b *backends.BoltBackend, requests ...*enhanced.EnhancedLockRequest) <-chan error {
	t.Helper()
	answers := make(chan error, len(requests))
	for i, r := range requests {
		go func() {
			_, err := b.AcquireLock(context.WithoutCancel(t.Context()), r)
			answers <- err
		}()
		backendtest.Eventually(t, "it waits", func() bool { return waiting(t, b) == i+1 })
	}
	return answers
}

func waiting(t *testing.T, b *backends.BoltBackend) int {
	t.Helper()
	status, err := b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	return status.Size
}

// A waiter lives as long as its call, and that as long as its process. What a
// process has left in the file is passed over.
func TestBoltQueueOfADeadProcess(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int{"beside others": 1000, "in a full queue": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testQueueOfADeadProcess(t, limit)
		})
	}
}

func testQueueOfADeadProcess(t *testing.T, limit int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, queueOn(), nil)
	require.NoError(t, err)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"), by("org/app", ".", "eve"))
	require.NoError(t, b.Close())
	for range 2 {
		require.ErrorIs(t, <-answers, enhanced.ErrClosed)
	}
	_, err = b.AcquireLock(t.Context(), by("org/app", ".", "bob"))
	require.ErrorIs(t, err, enhanced.ErrClosed)
	require.NoError(t, db.Close())

	limited := queueOn()
	limited.MaxQueueSize = limit
	after := openBolt(t, path, limited)
	require.Zero(t, waiting(t, after))
	stats, err := after.GetStats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats.QueueDepth)
	violations, err := after.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	// The dead take no places.
	answers = waits(t, after, by("org/app", ".", "kim"), by("org/app", ".", "max"))
	require.NoError(t, after.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
	held, err := after.LookupLock(t.Context(), by("org/app", ".", "").Resource)
	require.NoError(t, err)
	require.Equal(t, "user:kim", held.Owner)
	page, err := after.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	cancelled := 0
	for _, r := range page.Records {
		if r.Type == enhanced.EventCancelled {
			require.Equal(t, enhanced.SystemStore, r.Actor)
			cancelled++
		}
	}
	require.Equal(t, 2, cancelled)
}

// One waiter that can't be read harms only itself.
func TestBoltQueueCorruptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(r *bbolt.Bucket, key, value []byte) error
		rules  []string
		// passed is set when the damaged waiter can't be served before a repair.
		passed bool
	}{
		"unreadable": {
			damage: func(r *bbolt.Bucket, key, _ []byte) error { return r.Put(key, []byte("{")) },
			rules:  []string{enhanced.RuleQueueUnreadable, enhanced.RuleQueueStray, enhanced.RuleQueueStray}, passed: true,
		},
		"lost": {
			damage: func(r *bbolt.Bucket, key, _ []byte) error { return r.Delete(key) },
			rules:  []string{enhanced.RuleQueueStray, enhanced.RuleQueueStray}, passed: true,
		},
		"no way from its request": {
			damage: func(r *bbolt.Bucket, _, _ []byte) error { return r.Delete([]byte("wfirst")) },
			rules:  []string{enhanced.RuleQueueMissing},
		},
		"no way from its owner": {
			damage: func(r *bbolt.Bucket, _, _ []byte) error {
				key, _ := r.Cursor().Seek([]byte("u"))
				return r.Delete(key)
			},
			rules: []string{enhanced.RuleQueueMissing},
		},
		"another's place": {
			damage: func(r *bbolt.Bucket, key, value []byte) error {
				moved := append([]byte{}, key...)
				moved[len(moved)-16] ^= 0x01 // behind all
				return r.Put(moved, value)
			},
			rules: []string{enhanced.RuleQueueRank},
		},
		"an interval that nobody can configure": {
			damage: func(r *bbolt.Bucket, _, _ []byte) error { return r.Put([]byte("yaging"), []byte("soon")) },
			rules:  []string{enhanced.RuleQueueRank},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			b, err := backends.NewBoltBackend(db, queueOn(), nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, b.Close()) })
			lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
			require.NoError(t, err)
			first, second := by("org/app", ".", "bob"), by("org/app", ".", "eve")
			first.ID, second.ID = "first", "second"
			answers := waits(t, b, first, second)
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				r := tx.Bucket([]byte("enhanced")).Bucket([]byte(enhanced.RepositoryTag("org/app")))
				key, value := r.Cursor().Seek([]byte("q"))
				return c.damage(r, append([]byte{}, key...), append([]byte{}, value...))
			}))
			violations, err := b.Verify(t.Context())
			require.NoError(t, err)
			var rules []string
			for _, v := range violations {
				rules = append(rules, v.Rule)
				require.NotEmpty(t, v.Repair, v.Detail)
			}
			require.ElementsMatch(t, c.rules, rules)
			_, err = b.Repair(t.Context(), "user:admin", "test")
			require.NoError(t, err)
			violations, err = b.Verify(t.Context())
			require.NoError(t, err)
			require.Empty(t, violations)
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			require.NoError(t, <-answers)
			held, err := b.LookupLock(t.Context(), lock.Resource)
			require.NoError(t, err)
			want := "user:bob"
			if c.passed {
				want = "user:eve"
			}
			require.Equal(t, want, held.Owner)
		})
	}
}
