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
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func boltPlanner(t *testing.T, path string) (*planner, *bbolt.DB) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := backends.NewBoltBackend(db, planConfig(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return newPlanner(b), db
}

func TestBoltReservationEndsAfterTheLastTry(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	synctest.Test(t, func(t *testing.T) {
		p, _ := boltPlanner(t, path)
		testLastTry(t, p, func(d time.Duration) { <-time.After(d) })
	})
}

func TestBoltPlacesSurviveARestart(t *testing.T) {
	t.Parallel()
	p, db := boltPlanner(t, filepath.Join(t.TempDir(), "atlantis.db"))
	testRestart(t, p, func(p *planner) *planner {
		p.stop(t)
		copied := filepath.Join(t.TempDir(), "copy.db")
		require.NoError(t, db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(copied, 0o600) }))
		p, db = boltPlanner(t, copied)
		return p
	})
}

// A detached waiter of a resource that stock Atlantis takes for the freed one is
// served when that is freed, after a restart, too.
func TestBoltDetachedWaiterOfOneLegacyKey(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			p, db := boltPlanner(t, filepath.Join(t.TempDir(), "atlantis.db"))
			acquired, _, err := p.TryLock(stockLock("g/s", 5, "r"))
			require.NoError(t, err)
			require.True(t, acquired)
			acquired, _, err = p.TryLock(stockLock("g", 6, "s/r"))
			require.NoError(t, err)
			require.False(t, acquired)
			b := p.b
			if restart {
				p.stop(t)
				after, err := backends.NewBoltBackend(db, queueOn(), nil)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, after.Close()) })
				b = after
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
			p, db := boltPlanner(t, filepath.Join(t.TempDir(), "atlantis.db"))
			p.plan(t)
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				return c.damage(tx.Bucket([]byte(enhanced.RepositoryTag("org/app"))))
			}))
			p.requireRepaired(t, c.rules)
		})
	}
}
