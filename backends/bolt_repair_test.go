package backends_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Each damage is found by its rule, shown, repaired and logged, and then there
// is nothing left to find; all else stays as it was.
func TestPlantedCorruptions(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	require.Empty(t, verifyFile(t, sample.path))
	for name, c := range corruptions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "atlantis.db")
			copyFile(t, sample.path, path)
			sample.plantIn(t, path, c.plant)
			before := dump(t, path)

			found := verifyFile(t, path)
			require.Equal(t, c.rules, rulesOf(found))
			for _, v := range found {
				require.NotEmpty(t, v.Record)
				require.NotEmpty(t, v.Detail)
				require.Equal(t, slices.Contains(c.left, v.Rule), v.Repair == "", "%+v", v)
				require.NotContains(t, v.Record+v.Detail+v.Repair, secret)
			}

			db, err := bbolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "disk was full")
			require.NoError(t, err)
			require.NoError(t, db.Close())
			left := slices.DeleteFunc(slices.Clone(found), func(v enhanced.Violation) bool { return v.Repair != "" })
			require.ElementsMatch(t, found, append(repaired, left...))
			require.Equal(t, c.left, rulesOf(verifyFile(t, path)))
			requireLogged(t, path, repaired)
			requireNothingLost(t, before, dump(t, path), c.rewritten)

			// The store works, and the other locks are what they were.
			s := open(t, path, nil)
			touched := []*enhanced.EnhancedLock{}
			if c.touched != nil {
				touched = c.touched(sample)
			}
			for _, lock := range sample.locks() {
				if slices.Contains(touched, lock) {
					continue
				}
				now, err := s.ours.GetLock(t.Context(), lock.ID)
				require.NoError(t, err)
				require.Equal(t, lock, now)
			}
			_, err = s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 9, "new")))
			require.NoError(t, err)
			again, err := s.ours.Verify(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.left, rulesOf(again))
		})
	}
}

// requireLogged checks that each repair is in the log, with who and why.
func requireLogged(t *testing.T, path string, repaired []enhanced.Violation) {
	t.Helper()
	s := open(t, path, nil)
	defer s.close(t)
	logged := map[string]int{}
	names, err := s.ours.ListRepositories(t.Context())
	require.NoError(t, err)
	for _, name := range names {
		page, err := s.ours.ReadLog(t.Context(), name, 0, 1000)
		require.NoError(t, err)
		require.False(t, page.More)
		for _, record := range page.Records {
			if record.Type == enhanced.EventRepaired && !strings.Contains(record.Reason, "this record ") {
				require.Equal(t, "user:admin", record.Actor)
				require.Equal(t, enhanced.CauseRepair, record.Cause)
				require.Contains(t, record.Reason, "disk was full")
				_, rule, _ := strings.Cut(record.Reason, "(")
				rule, _, _ = strings.Cut(rule, " ")
				logged[name+" "+rule]++
			}
		}
	}
	want := map[string]int{}
	for _, v := range repaired {
		want[v.Repository+" "+v.Rule]++
	}
	require.Equal(t, want, logged)
}

// dump returns all values of a file, by their buckets and keys.
func dump(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer db.Close()
	return dumpOf(t, db)
}

func dumpOf(t *testing.T, db *bbolt.DB) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(place string, b *bbolt.Bucket) error
	walk = func(place string, b *bbolt.Bucket) error {
		return b.ForEach(func(key, value []byte) error {
			if nested := b.Bucket(key); nested != nil {
				return walk(place+"/"+string(key), nested)
			}
			all[place+"/"+string(key)] = string(value)
			return nil
		})
	}
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if place := string(name); len(place) == 32 {
				return walk("enhanced/"+place, b) // as records are named
			}
			return walk(string(name), b)
		})
	}))
	return all
}

// requireNothingLost checks that what a repair replaced or removed is kept:
// elsewhere in the store, or in quarantine under its place, byte for byte. What
// follows from other entries, what holds a credential, and with rewritten a
// readable lock record are replaced.
func requireNothingLost(t *testing.T, before, after map[string]string, rewritten bool) {
	t.Helper()
	values := map[string]bool{}
	for place, value := range after {
		if where, ok := strings.CutPrefix(place, "enhanced-quarantine/"); ok {
			require.Equal(t, before[where], value)
		}
		values[value] = true
	}
	for place, value := range before {
		parts := strings.SplitN(place, "/", 3)
		entry := parts[len(parts)-1]
		switch {
		case values[value], strings.Contains(value, secret):
		case parts[0] == "enhanced" && len(parts) == 2: // the store's clock and token
		case parts[0] == "enhanced" && strings.ContainsRune("dfir", rune(entry[0])):
		case entry == "yname", entry == "ycheckpoint" && json.Valid([]byte(value)):
		case rewritten && parts[0] == "enhanced" && entry[0] == 'l':
		default:
			t.Fatalf("lost: %q", place)
		}
	}
}

// Live, the store is repaired in one step per repository while it is in use.
func TestRepairLive(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	s := open(t, sample.path, nil)
	require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
		e := &editor{t: t, tx: tx, sample: sample}
		e.remove(e.app(), deadlineEntry(e.leased))
		e.put(e.app(), lockEntry(e.custom), "null")
		e.put(e.stock(), "org/app/x/default/", "null")
		e.remove(e.bucket("org/other"), idEntry(e.elsewhere))
		return nil
	}))
	events, err := s.ours.Subscribe(t.Context(), []string{enhanced.EventRepaired})
	require.NoError(t, err)
	stats, err := s.ours.GetStats(t.Context())
	require.NoError(t, err)
	require.Len(t, stats.UnreadableRecords, 2)

	found, err := s.ours.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{
		enhanced.RuleDeadlineMissing, enhanced.RuleIDMissing, enhanced.RuleLockUnreadable, enhanced.RuleStockUnreadable,
	}, rulesOf(found))
	_, err = s.ours.Repair(t.Context(), "admin", "why")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	_, err = s.ours.Repair(t.Context(), "user:admin", " ")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	repaired, err := s.ours.Repair(t.Context(), "user:admin", "disk was full")
	require.NoError(t, err)
	require.ElementsMatch(t, found, repaired)
	again, err := s.ours.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, again)

	for range repaired {
		event := <-events
		require.Equal(t, "user:admin", event.Metadata["actor"])
	}
	stats, err = s.ours.GetStats(t.Context())
	require.NoError(t, err)
	require.Empty(t, stats.UnreadableRecords)
	_, err = s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 9, "x")))
	require.NoError(t, err, "what counted as held is free")
	released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.Len(t, released, 2, "the owner leads to both of its locks again")
}

// Two records of one place are both kept.
func TestQuarantineKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	path := fill(t)
	for i, value := range []string{"first", "second", "second"} {
		put(t, path, "org/app/x/default/", []byte(value))
		db, err := bbolt.Open(path, 0o600, nil)
		require.NoError(t, err)
		repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "why")
		require.NoError(t, err)
		require.Len(t, repaired, 1, i)
		require.NoError(t, db.Close())
	}
	all := dump(t, path)
	maps.DeleteFunc(all, func(place, _ string) bool { return !strings.HasPrefix(place, "enhanced-quarantine/") })
	require.Equal(t, map[string]string{
		"enhanced-quarantine/runLocks/org/app/x/default/":     "first",
		"enhanced-quarantine/runLocks/org/app/x/default/ (2)": "second",
		"enhanced-quarantine/runLocks/org/app/x/default/ (3)": "second",
	}, all)
}

// repairOf plants a damage, repairs it, and returns what was repaired and the
// log records of that.
func repairOf(t *testing.T, plant func(e *editor)) (repaired []enhanced.Violation, logged []*enhanced.LogRecord) {
	t.Helper()
	sample := newSample(t)
	sample.plantIn(t, sample.path, plant)
	db, err := bbolt.Open(sample.path, 0o600, nil)
	require.NoError(t, err)
	repaired, err = backends.RepairBolt(t.Context(), db, "user:admin", "why")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	s := open(t, sample.path, nil)
	for _, name := range must(s.ours.ListRepositories(t.Context())) {
		for _, record := range must(s.ours.ReadLog(t.Context(), name, 0, 1000)).Records {
			if record.Type == enhanced.EventRepaired {
				logged = append(logged, record)
			}
		}
	}
	return repaired, logged
}

func TestTheTokenIsRaisedAboveEveryLock(t *testing.T) {
	t.Parallel()
	var highest int64
	repaired, _ := repairOf(t, func(e *editor) {
		corruptions()["the store's token set back, and the log trimmed"].plant(e)
		highest = e.transferred.Version
	})
	require.Len(t, repaired, 1)
	require.Contains(t, repaired[0].Repair, itoa(highest))
}

// A lock that is gone does not come back, and the log says whose it was.
func TestALostLockIsLogged(t *testing.T) {
	t.Parallel()
	var lock *enhanced.EnhancedLock
	_, logged := repairOf(t, func(e *editor) {
		corruptions()["lock gone"].plant(e)
		lock = e.leased
	})
	var found bool
	for _, record := range logged {
		require.Nil(t, record.After)
		if record.Before != nil {
			found = true
			require.Equal(t, lock.Resource, record.Resource)
			require.Equal(t, lock.Owner, record.Before.Owner)
			require.Equal(t, lock.Version, record.Token)
			require.True(t, lock.ExpiresAt.Equal(*record.Before.ExpiresAt))
		}
	}
	require.True(t, found)
}

// A record of stock's goes to the log of the repository that its key is most
// likely of, and never to one with a name that nobody could ask for.
func TestWhereAStocksRecordIsLogged(t *testing.T) {
	t.Parallel()
	for key, repository := range map[string]string{
		"org/app/x/default/":       "org/app",
		"org/app/a/b/c/default/":   "org/app",
		"new/repo/a/b/default/p":   "new/repo",
		"new/repo/default":         "new/repo",
		"a\x1b/b/default/":         "",
		"\xff/b/c/default/":        "",
		"nothing":                  "",
		"org/app/x/default/\x1b[m": "org/app",
	} {
		repaired, logged := repairOf(t, func(e *editor) { e.put(e.stock(), key, "null") })
		require.Len(t, repaired, 1, "%q", key)
		require.Equal(t, repository, repaired[0].Repository, "%q", key)
		require.Len(t, logged, 1, "%q", key)
		require.Equal(t, repository, logged[0].Resource.Namespace, "%q", key)
		require.NotContains(t, logged[0].Reason, "\x1b")
	}
}
