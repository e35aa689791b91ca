package backends_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// planner is an adapter with the queue on, over a file of its own.
type planner struct {
	*enhanced.LockingAdapter
	b  *backends.BoltBackend
	db *bbolt.DB
}

func newPlanner(t *testing.T, path string) *planner {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	config := queueOn()
	config.Enabled = true
	b, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	manager := enhanced.NewEnhancedLockManager(b, config, nil)
	return &planner{enhanced.NewLockingAdapter(manager, b, config, nil, nil), b, db}
}

func (p *planner) try(t *testing.T, number int, path string) bool {
	t.Helper()
	acquired, _, err := p.TryLock(stockLock("org/app", number, path))
	require.NoError(t, err)
	return acquired
}

func (p *planner) giveBack(t *testing.T, number int, path string) {
	t.Helper()
	lock, err := p.UnlockIfOwnedByPull(stockLock("org/app", number, path).Project, "default", number)
	require.NoError(t, err)
	require.NotNil(t, lock)
}

// holder is who has a resource, "" for nobody, after what is due is done.
func (p *planner) holder(t *testing.T, path string) string {
	t.Helper()
	_, err := p.b.CleanupExpiredLocks(t.Context())
	require.NoError(t, err)
	lock, err := p.b.LookupLock(t.Context(), by("org/app", path, "").Resource)
	if err != nil {
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		return ""
	}
	return lock.Owner
}

func ownerOf(number int) string {
	return enhanced.ProjectLockOwner(stockLock("org/app", number, ".")).String()
}

// A run that has not asked for 30 seconds wants no more of what it gave back.
func TestBoltReservationEndsAfterTheLastTry(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	synctest.Test(t, func(t *testing.T) {
		p := newPlanner(t, path)
		for _, path := range []string{"one", "two", "three"} {
			require.True(t, p.try(t, 5, path))
			require.False(t, p.try(t, 6, path))
			p.giveBack(t, 5, path)
		}
		<-time.After(50 * time.Minute) // it clones a large repository
		require.Empty(t, p.holder(t, "one"))
		require.True(t, p.try(t, 5, "one"))
		<-time.After(29 * time.Second)
		require.Empty(t, p.holder(t, "two"))
		require.True(t, p.try(t, 5, "two"), "its last request was 29 s before")
		<-time.After(29 * time.Second)
		require.Empty(t, p.holder(t, "three"))
		wait, found, err := p.b.NextDeadline(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, time.Second, wait.Round(time.Millisecond))
		<-time.After(time.Second)
		require.True(t, p.try(t, 5, "other"), "asking late revives nothing")
		require.Equal(t, ownerOf(6), p.holder(t, "three"))
		require.Equal(t, ownerOf(5), p.holder(t, "one"))
		violations, err := p.b.Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations)
	})
}

// Places, claims, reservations and tombstones have no process, and outlive it.
func TestBoltPlacesSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	restart := func(p *planner) *planner {
		require.NoError(t, p.b.Close())
		copied := filepath.Join(t.TempDir(), "copy.db")
		require.NoError(t, p.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(copied, 0o600) }))
		return newPlanner(t, copied)
	}
	p := newPlanner(t, path)
	require.True(t, p.try(t, 5, "."))
	require.False(t, p.try(t, 6, "."))
	require.False(t, p.try(t, 7, "."))
	require.True(t, p.try(t, 5, "kept"))
	require.False(t, p.try(t, 6, "kept"))
	p.giveBack(t, 5, "kept")
	require.NoError(t, p.DeletePullStatus(stockLock("org/app", 9, ".").Pull))

	p = restart(p)
	require.Equal(t, 3, waiting(t, p.b))
	require.False(t, p.try(t, 6, "kept"))
	_, _, err := p.TryLock(stockLock("org/app", 9, "."))
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	_, err = p.Unlock(stockLock("org/app", 5, ".").Project, "default")
	require.NoError(t, err)

	p = restart(p)
	require.Equal(t, ownerOf(6), p.holder(t, "."))
	require.False(t, p.try(t, 7, "."))
	require.True(t, p.try(t, 6, "."), "it claims what it got before")
	_, err = p.UpdatePullWithResults(stockLock("org/app", 5, ".").Pull, []command.ProjectResult{})
	require.NoError(t, err)
	require.Equal(t, ownerOf(6), p.holder(t, "kept"))
	violations, err := p.b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// A detached waiter of a resource that stock Atlantis takes for the freed one is
// served when that is freed, after a restart, too.
func TestBoltDetachedWaiterOfOneLegacyKey(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			p := newPlanner(t, filepath.Join(t.TempDir(), "atlantis.db"))
			acquired, _, err := p.TryLock(stockLock("g/s", 5, "r"))
			require.NoError(t, err)
			require.True(t, acquired)
			acquired, _, err = p.TryLock(stockLock("g", 6, "s/r"))
			require.NoError(t, err)
			require.False(t, acquired)
			b := p.b
			if restart {
				require.NoError(t, p.b.Close())
				b, err = backends.NewBoltBackend(p.db, queueOn(), nil)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
			}
			_, err = b.ReleaseByPull(t.Context(), "g/s", 5, enhanced.SystemAtlantis)
			require.NoError(t, err)
			lock, err := b.LookupLock(t.Context(), by("g", "s/r", "").Resource)
			require.NoError(t, err)
			require.Equal(t, enhanced.LockStatePending, lock.State)
		})
	}
}

// One damaged record of a run harms only itself, is named and repaired.
func TestBoltReplanCorruptions(t *testing.T) {
	t.Parallel()
	pull5 := ownerOf(5)
	number := func(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) } //nolint:gosec // positive
	future := time.Now().Add(1000 * time.Hour).UnixMicro()
	first := func(r *bbolt.Bucket, letter string) (key, value []byte) {
		k, v := r.Cursor().Seek([]byte(letter))
		return append([]byte{}, k...), append([]byte{}, v...)
	}
	for name, c := range map[string]struct {
		damage func(r *bbolt.Bucket) error
		rules  []string
	}{
		"reservation unreadable": {
			damage: func(r *bbolt.Bucket) error { key, _ := first(r, "v"); return r.Put(key, []byte("{")) },
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation},
		},
		"reservation beside a lock": {
			damage: func(r *bbolt.Bucket) error {
				_, value := first(r, "v")
				return r.Put([]byte("vproject/held/default/"), value)
			},
			rules: []string{enhanced.RuleReservation},
		},
		"reservation that its owner does not lead to": {
			damage: func(r *bbolt.Bucket) error { key, _ := first(r, "s"); return r.Delete(key) },
			rules:  []string{enhanced.RuleReservation, enhanced.RuleReservation},
		},
		"owner that leads to no reservation": {
			damage: func(r *bbolt.Bucket) error {
				return r.Put([]byte("sp5/github.com\x00project/held/default/"), []byte{1})
			},
			rules: []string{enhanced.RuleReservation},
		},
		"last try of the future": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("n"+pull5), number(future)) },
			rules:  []string{enhanced.RuleReservation},
		},
		"last try of one who has nothing reserved": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("n"+ownerOf(7)), number(1)) },
			rules:  []string{enhanced.RuleReservation},
		},
		"tombstone unreadable": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("t"+ownerOf(9)), []byte("null")) },
			rules:  []string{enhanced.RuleTombstone},
		},
		"tombstone of the future": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("t"+ownerOf(9)), []byte(`{"t":9223372036854775807}`)) },
			rules:  []string{enhanced.RuleTombstone},
		},
		"mark of the future": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("k9"), number(future)) },
			rules:  []string{enhanced.RuleTombstone},
		},
		"mark of no pull request": {
			damage: func(r *bbolt.Bucket) error { return r.Put([]byte("knine"), number(1)) },
			rules:  []string{enhanced.RuleTombstone},
		},
		"unclaimed lock without an end": {
			damage: func(r *bbolt.Bucket) error {
				key := []byte("lproject/claim/default/")
				return r.Put(key, []byte(strings.Replace(string(r.Get(key)), `"x":`, `"y":`, 1)))
			},
			rules: []string{enhanced.RuleLockUnreadable},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlanner(t, filepath.Join(t.TempDir(), "atlantis.db"))
			for _, path := range []string{"kept", "claim", "held"} {
				require.True(t, p.try(t, 5, path))
			}
			require.False(t, p.try(t, 6, "kept"))
			require.False(t, p.try(t, 6, "claim"))
			p.giveBack(t, 5, "kept")
			require.True(t, p.try(t, 5, "other")) // leaves the time of the last try
			_, err := p.Unlock(stockLock("org/app", 5, "claim").Project, "default")
			require.NoError(t, err)
			_, err = p.UnlockByPull("org/app", 8)
			require.NoError(t, err)
			require.NoError(t, p.DeletePullStatus(stockLock("org/app", 9, ".").Pull))
			violations, err := p.b.Verify(t.Context())
			require.NoError(t, err)
			require.Empty(t, violations)
			require.NoError(t, p.db.Update(func(tx *bbolt.Tx) error {
				return c.damage(tx.Bucket([]byte("enhanced")).Bucket([]byte(enhanced.RepositoryTag("org/app"))))
			}))
			violations, err = p.b.Verify(t.Context())
			require.NoError(t, err)
			var rules []string
			for _, v := range violations {
				rules = append(rules, v.Rule)
				require.NotEmpty(t, v.Repair, v.Detail)
			}
			require.Subset(t, c.rules, rules)
			require.NotEmpty(t, rules)
			_, err = p.b.Repair(t.Context(), "user:admin", "test")
			require.NoError(t, err)
			violations, err = p.b.Verify(t.Context())
			require.NoError(t, err)
			require.Empty(t, violations)
			require.Equal(t, ownerOf(5), p.holder(t, "held"))
		})
	}
}
