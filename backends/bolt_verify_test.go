package backends_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A healthy store stays the same, byte for byte, whoever looks and repairs.
func TestVerifyAndRepairChangeNothingHealthy(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"of ours":        newSample(t).path,
		"of stock alone": fill(t, stockLock("org/app", 5, "."), stockLock("org/app", 6, "a/b")),
		"empty":          fill(t),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Empty(t, verifyFile(t, path))
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
			require.NoError(t, err)
			violations, err := backends.VerifyBolt(db)
			require.NoError(t, err)
			require.Empty(t, violations)
			repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "to be sure")
			require.NoError(t, err)
			require.Empty(t, repaired)
			require.NoError(t, db.Close())
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after))
		})
	}

	t.Run("live", func(t *testing.T) {
		t.Parallel()
		path := newSample(t).path
		s := open(t, path, nil)
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		violations, err := s.ours.Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations)
		repaired, err := s.ours.Repair(t.Context(), "user:admin", "to be sure")
		require.NoError(t, err)
		require.Empty(t, repaired)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after))
	})
}

// What stock does in its own bucket is followed by the next step, and is no
// violation: it takes locks, releases ours, and locks them again.
func TestStocksChangesAreNoViolations(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	s := open(t, sample.path, nil)
	check := func(step string) {
		violations, err := s.ours.Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations, step)
		require.Empty(t, must(s.ours.Repair(t.Context(), "user:admin", "to be sure")), step)
	}
	_, _, err := s.stock.TryLock(stockLock("org/app", 7, "stocks"))
	require.NoError(t, err)
	check("stock took a lock, credentials and all")
	_, err = s.stock.Unlock(sample.plain.Resource.Project(), "default")
	require.NoError(t, err)
	check("stock released our lock")
	_, _, err = s.stock.TryLock(stockLock("org/app", 7, "plain"))
	require.NoError(t, err)
	check("stock locked it again")
	_, err = s.stock.UnlockByPull("org/app", 5)
	require.NoError(t, err)
	check("stock closed a pull request")
	locks, err := s.ours.ListLocks(t.Context())
	require.NoError(t, err)
	check("all of that was followed")
	require.Len(t, locks, 6)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestVerifyRefusesAnotherFormat(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, func(e *editor) { e.put(e.root(), "format", "99") })
	db, err := bbolt.Open(sample.path, 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	_, err = backends.VerifyBolt(db)
	require.ErrorContains(t, err, `format "99"`)
	_, err = backends.RepairBolt(t.Context(), db, "user:admin", "why")
	require.ErrorContains(t, err, `format "99"`)
}

// A file whose pages are damaged is named as such, and no repair touches it.
func TestVerifyDamagedPages(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, path string){
		"a page of noise": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			defer f.Close()
			// The first page behind the two that describe the file and the
			// free list, with its own number left as it is.
			page := bytes.Repeat([]byte{0xa5}, os.Getpagesize()-16)
			for number := int64(4); number < 40; number++ {
				_, err = f.WriteAt(page, number*int64(os.Getpagesize())+16)
				require.NoError(t, err)
			}
		},
		"two pages changed places": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			defer f.Close()
			size := int64(os.Getpagesize())
			one, other := make([]byte, size), make([]byte, size)
			for number := int64(4); number < 30; number += 2 {
				_, err = f.ReadAt(one, number*size)
				require.NoError(t, err)
				_, err = f.ReadAt(other, (number+1)*size)
				require.NoError(t, err)
				_, err = f.WriteAt(one, (number+1)*size)
				require.NoError(t, err)
				_, err = f.WriteAt(other, number*size)
				require.NoError(t, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "atlantis.db")
			large(t, path)
			damage(t, path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
			require.NoError(t, err)
			violations, err := backends.VerifyBolt(db)
			require.NoError(t, err)
			require.NotEmpty(t, violations)
			for _, v := range violations {
				require.Equal(t, enhanced.RuleFile, v.Rule)
				require.Empty(t, v.Repair)
				require.Equal(t, path, v.Record)
			}
			require.NoError(t, db.Close())
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after))
		})
	}
}

// A page that is neither in use nor free is lost space and no more: the store is
// checked and repaired as usual.
func TestVerifyLostPage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	large(t, path)
	listFreePages(t, path)
	p := editPages(t, path)
	entries := p.get16(p.freeList(), atCount)
	require.Positive(t, entries)
	lost := p.get64(p.freeList(), atContent+8*(entries-1))
	p.put16(p.freeList(), atCount, uint16(entries-1))

	s := open(t, path, nil)
	damages, err := backends.CheckBoltFile(s.db)
	require.NoError(t, err)
	require.Equal(t, []backends.FileDamage{{
		Detail: "page " + itoa(lost) + " is neither in use nor free: its space is lost, and nothing else", Usable: true,
	}}, damages)
	require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
		e := &editor{t: t, tx: tx}
		e.put(e.app(), "rnone", "x")
		return nil
	}))
	found, err := s.ours.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{enhanced.RuleFile, enhanced.RuleUnknownEntry}, rulesOf(found))
	require.Contains(t, found[0].Detail, "its space is lost until the file is opened again")
	repaired, err := s.ours.Repair(t.Context(), "user:admin", "why")
	require.NoError(t, err)
	require.Equal(t, []string{enhanced.RuleUnknownEntry}, rulesOf(repaired))
	s.close(t)
	require.Empty(t, verifyFile(t, path))
}

// large makes a store of many pages.
func large(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	for i := range int64(200) {
		_, err := b.AcquireLock(t.Context(), request(stockLock("org/app", 5, "p"+itoa(i))))
		require.NoError(t, err)
	}
	require.NoError(t, b.Close())
	require.NoError(t, db.Close())
}

func TestAClosedBackendVerifiesNothing(t *testing.T) {
	t.Parallel()
	s := open(t, newSample(t).path, nil)
	require.NoError(t, s.ours.Close())
	_, err := s.ours.Verify(t.Context())
	require.ErrorIs(t, err, enhanced.ErrClosed)
	_, err = s.ours.Repair(t.Context(), "user:admin", "why")
	require.ErrorIs(t, err, enhanced.ErrClosed)
}

// A run of random operations, with stock Atlantis at work on the same file, with
// restarts, and with the clock set on, leaves a store that breaks no rule.
func TestVerifyIsCleanAfterAnyRun(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	path := filepath.Join(t.TempDir(), "atlantis.db")
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		config := enhanced.DefaultConfig()
		config.LogMaxRecords = 50
		for range backendtest.Rounds(100) {
			s := open(t, path, config)
			for range 5 {
				backendtest.Churn(t, s.ours, random, 20)
				stockChurn(t, s, random)
				backendtest.RequireSound(t, s.ours)
				advance(time.Duration(random.Int64N(int64(10 * time.Minute))))
			}
			s.close(t)
			require.Empty(t, verifyFile(t, path))
		}
	})
}

// stockChurn has stock Atlantis change something in its own records.
func stockChurn(t *testing.T, s *opened, random *rand.Rand) {
	t.Helper()
	for range 3 {
		lock := stockLock([]string{"org/app", "org"}[random.IntN(2)], random.IntN(3), "dir/"+itoa(random.Int64N(4)))
		var err error
		switch random.IntN(3) {
		case 0:
			_, _, err = s.stock.TryLock(lock)
		case 1:
			_, err = s.stock.Unlock(lock.Project, lock.Workspace)
		case 2:
			_, err = s.stock.UnlockByPull(lock.Project.RepoFullName, lock.Pull.Num)
		}
		require.NoError(t, err)
	}
}
