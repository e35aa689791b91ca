package backends_test

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"github.com/stretchr/testify/assert"
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
func waits(t *testing.T, b enhanced.Backend, requests ...*enhanced.EnhancedLockRequest) <-chan error {
	t.Helper()
	answers := make(chan error, len(requests))
	before := waiting(t, b)
	for i, r := range requests {
		go func() {
			_, err := b.AcquireLock(context.WithoutCancel(t.Context()), r)
			answers <- err
		}()
		backendtest.Eventually(t, "it waits", func() bool { return waiting(t, b) == before+i+1 })
	}
	return answers
}

func waiting(t *testing.T, b enhanced.Backend) int {
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
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, queueOn(), nil)
	require.NoError(t, err)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"), by("org/app", ".", "eve"))
	path := filepath.Join(t.TempDir(), "of-a-dead-process.db")
	require.NoError(t, db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(path, 0o600) }))
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
		"a place that no move has given": {
			damage: func(r *bbolt.Bucket, key, value []byte) error {
				moved := append([]byte{}, key...)
				copy(moved[len(moved)-16:], appendRank(queue.Order{}.Moved(1<<40)))
				return errors.Join(r.Delete(key), r.Put(moved, value), r.Put([]byte("wfirst"), moved[1:]))
			},
			rules: []string{enhanced.RuleQueueRank, enhanced.RuleQueueStray},
		},
		"an interval that nobody can configure": {
			damage: func(r *bbolt.Bucket, _, _ []byte) error { return r.Put([]byte("yaging"), []byte("soon")) },
			rules:  []string{enhanced.RuleQueueRank},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, b := openQueue(t)
			lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
			require.NoError(t, err)
			first, second := by("org/app", ".", "bob"), by("org/app", ".", "eve")
			first.ID, second.ID = "first", "second"
			answers := waits(t, b, first, second)
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				r := tx.Bucket([]byte(enhanced.RepositoryTag("org/app")))
				key, value := r.Cursor().Seek([]byte("q"))
				return c.damage(r, append([]byte{}, key...), append([]byte{}, value...))
			}))
			requireQueueRepaired(t, b, lock, answers, c.rules, c.passed)
		})
	}
}

// appendRank writes a rank as it is stored.
func appendRank(rank queue.Rank) []byte {
	key := binary.BigEndian.AppendUint64(nil, uint64(rank.Score)^1<<63) //nolint:gosec // the sign bit is turned
	return binary.BigEndian.AppendUint64(key, rank.Sequence)
}

// slow holds the file up, as a disk does, until the returned function is called.
func slow(t *testing.T, db *bbolt.DB) (resume func()) {
	t.Helper()
	tx, err := db.Begin(true)
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback()) }
}

func openQueue(t *testing.T) (*bbolt.DB, *backends.BoltBackend) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := backends.NewBoltBackend(db, queueOn(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return db, b
}

// A copy of a request whose caller goes away takes nothing from the caller who
// was told that it has the lock.
func TestBoltQueueCopyOfARequest(t *testing.T) {
	t.Parallel()
	db, b := openQueue(t)
	r := by("org/app", ".", "ann")
	r.ID = "once"
	lock, err := b.AcquireLock(t.Context(), r)
	require.NoError(t, err)
	resume := slow(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	copied := make(chan error, 1)
	go func() {
		_, err := b.AcquireLock(ctx, r)
		copied <- err
	}()
	cancel()
	require.ErrorIs(t, <-copied, context.Canceled)
	resume()
	// What the copy has left behind is done before this.
	_, err = b.AcquireLock(t.Context(), by("org/app", "other", "ann"))
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), r)
	require.NoError(t, err)
	held, err := b.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	require.Equal(t, lock.ID, held.ID)
}

// A request that is sent again while it is leaving waits like a new one.
func TestBoltQueueRequestComesBack(t *testing.T) {
	t.Parallel()
	db, b := openQueue(t)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	r := by("org/app", ".", "bob")
	r.ID = "once"
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := b.AcquireLock(ctx, r)
		first <- err
	}()
	backendtest.Eventually(t, "it waits", func() bool { return waiting(t, b) == 1 })
	resume := slow(t, db)
	cancel()
	require.ErrorIs(t, <-first, enhanced.ErrOutcomeUnknown)
	again := make(chan error, 1)
	go func() {
		_, err := b.AcquireLock(t.Context(), r)
		again <- err
	}()
	resume()
	backendtest.Eventually(t, "it waits again", func() bool { return waiting(t, b) == 1 })
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-again)
}

// A call whose waiter is gone from the file does not wait for it.
func TestBoltQueueWaiterThatIsGone(t *testing.T) {
	t.Parallel()
	db, b := openQueue(t)
	_, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, by("org/app", ".", "bob"))
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		r := tx.Bucket([]byte(enhanced.RepositoryTag("org/app")))
		key, _ := r.Cursor().Seek([]byte("q"))
		return r.Delete(append([]byte{}, key...))
	}))
	_, err = b.Repair(t.Context(), "user:admin", "test")
	require.NoError(t, err)
	err = <-answers
	require.ErrorIs(t, err, enhanced.ErrLockExpired)
	require.ErrorContains(t, err, "is not in the queue any more")
}

// Who is told that the store is closed has no lock.
func TestBoltQueueCloseDuringAHandOver(t *testing.T) {
	t.Parallel()
	for range backendtest.Rounds(1_000) {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
		require.NoError(t, err)
		b, err := backends.NewBoltBackend(db, queueOn(), nil)
		require.NoError(t, err)
		lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
		require.NoError(t, err)
		answers := waits(t, b, by("org/app", ".", "bob"))
		backendtest.Together(2, func(i int) {
			if i == 0 {
				_ = b.ReleaseLock(t.Context(), lock.ID) // the store may be closed
				return
			}
			assert.NoError(t, b.Close())
		})
		answer := <-answers
		after, err := backends.NewBoltBackend(db, queueOn(), nil)
		require.NoError(t, err)
		held, err := after.LookupLock(t.Context(), lock.Resource)
		if answer != nil {
			require.ErrorIs(t, answer, enhanced.ErrClosed)
			require.True(t, err != nil || held.Owner == "user:ann", "%v was told %v", held, answer)
		} else {
			require.NoError(t, err)
			require.Equal(t, "user:bob", held.Owner)
		}
		require.NoError(t, after.Close())
		require.NoError(t, db.Close())
	}
}

// Resources that stock Atlantis takes for one have one line.
func TestBoltQueueOfOneLegacyKey(t *testing.T) {
	t.Parallel()
	_, b := openQueue(t)
	of := func(repository, path, user string, priority enhanced.Priority) *enhanced.EnhancedLockRequest {
		r := by(repository, path, user)
		r.Priority = priority
		return r
	}
	lock, err := b.AcquireLock(t.Context(), by("g/s", "r", "ann"))
	require.NoError(t, err)
	answers := waits(t, b, of("g/s", "r", "bob", enhanced.PriorityLow), of("g", "s/r", "eve", enhanced.PriorityHigh))
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	require.NoError(t, <-answers)
	held, err := b.LookupLock(t.Context(), by("g", "s/r", "").Resource)
	require.NoError(t, err)
	require.Equal(t, "user:eve", held.Owner, "the higher priority is served first")
	require.NoError(t, b.ReleaseLock(t.Context(), held.ID))
	require.NoError(t, <-answers)
	held, err = b.LookupLock(t.Context(), by("g/s", "r", "").Resource)
	require.NoError(t, err)
	require.Equal(t, "user:bob", held.Owner)
}

// requireQueueRepaired checks that a damage to the queue of bob and eve breaks the
// wanted rules and can be repaired, and that the one whose waiter was not damaged is
// served. When passed is set, the first one can't be.
func requireQueueRepaired(t *testing.T, b verifiedBackend, lock *enhanced.EnhancedLock, answers <-chan error, wanted []string, passed bool) {
	t.Helper()
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	var rules []string
	for _, v := range violations {
		rules = append(rules, v.Rule)
		require.NotEmpty(t, v.Repair, v.Detail)
	}
	require.ElementsMatch(t, wanted, rules)
	_, err = b.Repair(t.Context(), "user:admin", "test")
	require.NoError(t, err)
	violations, err = b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
	require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
	answer := <-answers
	if passed && answer != nil { // whose waiter is gone may have been told so
		require.ErrorIs(t, answer, enhanced.ErrLockExpired)
		answer = <-answers
	}
	require.NoError(t, answer)
	held, err := b.LookupLock(t.Context(), lock.Resource)
	require.NoError(t, err)
	want := "user:bob"
	if passed {
		want = "user:eve"
	}
	require.Equal(t, want, held.Owner)
}

type verifiedBackend interface {
	enhanced.Backend
	enhanced.Verifier
}
