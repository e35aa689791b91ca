package tests

import (
	"bufio"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A process is killed at a random moment under load, again and again, on one
// file. Whatever it was told is there; nothing is half done.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for secrets
	judge := &crashJudge{}
	for round := range backendtest.Rounds(300) {
		run := &crashRun{Seed: seed, Round: round}
		run.keepUnlessRight(t, func() {
			run.kill(t, path, 1500+random.IntN(2500))
			judge.round(t, path, run.Steps)
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d contended grants, %d calls without an answer", judge.contended, judge.open)
}

// add counts an answer of a process.
func (c *contention) add(s loadStep) {
	if s.Op == "acquire" && s.Answered {
		c.answer(s.Resource, s.Granted)
	}
}

// kill runs a process under load until it has reported n steps, and enough
// contended grants, and kills it. The run then has all that it reported, and the
// file as it left it.
func (r *crashRun) kill(tb testing.TB, path string, n int) {
	tb.Helper()
	defer func() {
		var err error
		r.file, err = os.ReadFile(path)
		require.NoError(tb, err)
	}()
	r.killOn(tb, path, n)
}

// killOn is kill on a store of any kind, see runLoad.
func (r *crashRun) killOn(tb testing.TB, store string, n int) {
	tb.Helper()
	executable, err := os.Executable()
	require.NoError(tb, err)
	child := exec.CommandContext(tb.Context(), executable, store)
	child.Env = append(os.Environ(), childMode+"=load")
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, child.Start())
	seen := newContention()
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var step loadStep
		if err := json.Unmarshal(lines.Bytes(), &step); err != nil {
			break // the last line was cut by the kill
		}
		seen.add(step)
		if r.Steps = append(r.Steps, step); len(r.Steps) >= n && seen.grants >= leastContended {
			require.NoError(tb, child.Process.Kill())
		}
	}
	var exit *exec.ExitError
	require.ErrorAs(tb, child.Wait(), &exit)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(tb, ok)
	require.Equal(tb, syscall.SIGKILL, status.Signal(), "it ended by itself")
}

// held is a lock that a process was told it has. The ID is unknown between a
// transfer and the release that follows.
type held struct {
	id, owner string
	token     int64
	// lease is how long it lasts, at least, from when it was acquired.
	lease time.Duration
}

// crashJudge knows what must be in the store.
type crashJudge struct {
	newest    int64 // token of all rounds before
	contended int
	open      int
}

// round checks a store after a kill, and empties it for the next process.
func (j *crashJudge) round(tb testing.TB, path string, steps []loadStep) {
	tb.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 10 * time.Second})
	require.NoError(tb, err)
	defer func() { require.NoError(tb, db.Close()) }()
	requireSound(tb, db)
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, b.Close()) }()
	j.compare(tb, b, steps)
}

// compare checks what is in a store against what a process was told, and empties
// it for the next one.
func (j *crashJudge) compare(tb testing.TB, b enhanced.Backend, steps []loadStep) {
	tb.Helper()
	acknowledged := j.replay(tb, steps)
	locks, err := b.ListLocks(tb.Context())
	require.NoError(tb, err)
	acknowledged.compare(tb, locks)
	for _, lock := range locks {
		j.newest = max(j.newest, lock.Version)
		require.NoError(tb, b.ReleaseLock(tb.Context(), lock.ID))
	}
}

// acknowledged is what the answers of a process say, and the calls that it got
// no answer to.
type acknowledged struct {
	held     map[string]held // by resource
	released map[string]bool // by lock ID
	open     map[int64]loadStep
}

// replay reads a report. Answers of different workers can be out of order, but
// not those about one lock: a worker reports a grant before it releases it.
func (j *crashJudge) replay(tb testing.TB, steps []loadStep) acknowledged {
	tb.Helper()
	before := j.contended
	a := j.replayed(tb, steps)
	require.GreaterOrEqual(tb, j.contended-before, leastContended, "the round is void: too little contention")
	return a
}

func (j *crashJudge) replayed(tb testing.TB, steps []loadStep) acknowledged {
	tb.Helper()
	a := acknowledged{map[string]held{}, map[string]bool{}, map[int64]loadStep{}}
	tokens := map[string]int64{}
	contended, newest := newContention(), j.newest
	for _, s := range steps {
		contended.add(s)
		if !s.Answered {
			a.open[s.Call] = s
			continue
		}
		delete(a.open, s.Call)
		require.Empty(tb, s.Failed, "%+v", s)
		switch {
		case s.Op == "acquire" && s.Granted:
			require.Greater(tb, s.Token, max(j.newest, tokens[s.Resource]), "a token that is not larger than those before")
			tokens[s.Resource], newest = s.Token, max(newest, s.Token)
			a.held[s.Resource] = held{s.Lock, s.Owner, s.Token, loadLease}
		case s.Op == "acquire":
		case s.Op == "refresh":
			now := a.held[s.Resource]
			require.Equal(tb, s.Lock, now.id, "a refresh of a lock that its worker does not hold")
			now.lease = loadExtension
			a.held[s.Resource] = now
		case s.Op == "transfer":
			a.held[s.Resource] = held{"", s.Owner, s.Token, a.held[s.Resource].lease}
			a.released[s.Lock] = true
		case s.Op == "release":
			a.released[s.Lock] = true
			// After a transfer the ID is not known, but its token is larger than that
			// of the lock before: a release of an earlier lock can be answered late.
			now := a.held[s.Resource]
			if _, token, ok := enhanced.ParseLockID(s.Lock); now.id == s.Lock || now.id == "" && ok && token > tokens[s.Resource] {
				delete(a.held, s.Resource)
			}
		}
	}
	j.newest = newest
	j.contended += contended.grants
	j.open += len(a.open)
	return a
}

// compare checks what is in the store against what was acknowledged. A call
// without an answer may have taken effect.
func (a acknowledged) compare(tb testing.TB, locks []*enhanced.EnhancedLock) {
	tb.Helper()
	found := map[string]*enhanced.EnhancedLock{}
	for _, lock := range locks {
		require.False(tb, a.released[lock.ID], "a lock is back whose end was acknowledged")
		found[lock.Resource.Path] = lock
	}
	for resource, want := range a.held {
		lock := found[resource]
		ending, successors := a.inDoubt(resource)
		// Where the ID is unknown, a lock after an unanswered end may be a later one.
		if lock != nil && (lock.ID == want.id || want.id == "" && !ending) {
			a.compareLease(tb, resource, want, lock)
		}
		if ending {
			if lock != nil && lock.ID != want.id {
				require.Contains(tb, append(successors, want.owner), lock.Owner)
			}
			continue
		}
		require.NotNil(tb, lock, "an acknowledged grant of %s is lost", resource)
		require.Equal(tb, want.owner, lock.Owner)
		if want.id != "" {
			require.Equal(tb, want.id, lock.ID)
		}
	}
	for resource, lock := range found {
		if _, known := a.held[resource]; !known {
			_, successors := a.inDoubt(resource)
			require.Contains(tb, successors, lock.Owner, "%s is held and nobody asked for it", resource)
		}
	}
}

// compareLease checks that a lock's lease is the one that was acknowledged: from
// when the lock was acquired, or as long from a later refresh.
func (a acknowledged) compareLease(tb testing.TB, resource string, want held, lock *enhanced.EnhancedLock) {
	tb.Helper()
	least, most := want.lease, want.lease
	for _, s := range a.open {
		if s.Op == "refresh" && s.Resource == resource {
			most = loadExtension
		}
	}
	lease := lock.ExpiresAt.Sub(lock.AcquiredAt)
	require.GreaterOrEqual(tb, lease, least, "an acknowledged refresh of %s is lost", resource)
	if most < loadExtension {
		require.Equal(tb, most, lease, "%s was refreshed, and nobody asked for it", resource)
	}
}

// inDoubt reports whether a call that could end the lock on a resource has no
// answer, and who could hold it by calls without an answer.
func (a acknowledged) inDoubt(resource string) (ending bool, successors []string) {
	for _, s := range a.open {
		if s.Resource != resource {
			continue
		}
		switch s.Op {
		case "release":
			ending = true
		case "transfer":
			ending = true
			successors = append(successors, s.Owner)
		case "acquire":
			successors = append(successors, s.Owner)
		}
	}
	return ending, successors
}

// requireSound checks everything about a file that can be checked from outside.
func requireSound(tb testing.TB, db *bbolt.DB) {
	tb.Helper()
	require.NoError(tb, db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}))
	violations, err := backends.VerifyBolt(db)
	require.NoError(tb, err)
	require.Empty(tb, violations)
}

// With the disk full nothing is granted, what is held stays, and with space
// again everything goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), executable, filepath.Join(t.TempDir(), "atlantis.db"))
	child.Env = append(os.Environ(), childMode+"=full")
	output, err := child.CombinedOutput()
	require.NoError(t, err, string(output))
}
