package backends

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func testCommitter(t *testing.T) *committer {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	c := newCommitter(db, enhanced.LoggerOrNoop(nil))
	c.run = func(b *batch, step func(*batch) error) error { return step(b) }
	c.committed = func(*batch) {}
	c.undone = func(*batch) {}
	c.ended = func() {}
	c.spareAfter = time.Now().Add(time.Hour) // nothing commits but the test
	t.Cleanup(c.close)
	return c
}

// write is a step that puts one key.
func write(key string) func(*batch) error {
	return func(b *batch) error {
		b.dirty = true
		bucket, err := b.tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		return bucket.Put([]byte(key), []byte{1})
	}
}

func (c *committer) has(t *testing.T, key string) (found bool) {
	t.Helper()
	require.NoError(t, c.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte("b"))
		found = bucket != nil && bucket.Get([]byte(key)) != nil
		return nil
	}))
	return found
}

// block occupies the committer until release is called, so that steps gather.
func block(t *testing.T, c *committer) (release func()) {
	t.Helper()
	started, end := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.do(context.Background(), "block", func(*batch) error {
			close(started)
			<-end
			return nil
		})
	}()
	<-started
	return func() {
		close(end)
		require.NoError(t, <-done)
	}
}

func (c *committer) gathered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

func TestCommitterGathersWhileItWrites(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	release := block(t, c)
	var commits int
	c.committed = func(*batch) { commits++ }
	var callers sync.WaitGroup
	for i := range 50 {
		callers.Go(func() {
			if err := c.do(context.Background(), "write", write(string(rune('a'+i)))); err != nil {
				t.Error(err)
			}
		})
	}
	backendtest.Eventually(t, "the committer is there", func() bool { return c.gathered() == 50 })
	release()
	callers.Wait()
	require.Equal(t, 1, commits)
}

func TestAFailedStepHarmsOnlyItself(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, fail := range map[string]func(*batch) error{
		"an error": func(*batch) error { return broken },
		"a panic":  func(*batch) error { panic("broken") },
		"half done": func(b *batch) error {
			if err := write("half")(b); err != nil {
				return err
			}
			return broken
		},
		"a store error in form": func(b *batch) error {
			return errors.Join(write("half")(b), enhanced.NewBackendError("x", broken))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := testCommitter(t)
			release := block(t, c)
			steps := []func(*batch) error{write("one"), fail, write("two")}
			results := make([]error, len(steps))
			var callers sync.WaitGroup
			for i, step := range steps {
				callers.Go(func() { results[i] = c.do(context.Background(), "step", step) })
				backendtest.Eventually(t, "the committer is there", func() bool { return c.gathered() == i+1 })
			}
			release()
			callers.Wait()
			require.NoError(t, results[0])
			require.NoError(t, results[2])
			require.ErrorIs(t, results[1], enhanced.ErrBackend)
			require.ErrorContains(t, results[1], "broken")
			require.True(t, c.has(t, "one"))
			require.True(t, c.has(t, "two"))
			require.False(t, c.has(t, "half"))
		})
	}
}

func TestADecisionKeepsWhatItsStepWrote(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	err := c.do(t.Context(), "decide", func(b *batch) error {
		if err := write("settled")(b); err != nil {
			return err
		}
		return enhanced.ErrLockNotFound
	})
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
	require.True(t, c.has(t, "settled"))
}

func TestAWaitingStepIsWithdrawnWithItsContext(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	release := block(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.do(ctx, "write", write("late")) }()
	backendtest.Eventually(t, "the committer is there", func() bool { return c.gathered() == 1 })
	cancel()
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	release()
	require.False(t, c.has(t, "late"))
}

func TestARunningStepsOutcomeIsUnknown(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	ctx, cancel := context.WithCancel(t.Context())
	started, end := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.do(ctx, "write", func(b *batch) error {
			close(started)
			<-end
			return write("late")(b)
		})
	}()
	<-started
	cancel()
	err := <-done
	require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, enhanced.ErrTimeout)
	close(end)
	backendtest.Eventually(t, "the committer is there", func() bool { return c.has(t, "late") })
}

func TestNothingIsWrittenWhereNothingChanges(t *testing.T) {
	t.Parallel()
	c := testCommitter(t)
	txid := func() (id int) {
		require.NoError(t, c.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }))
		return id
	}
	before := txid()
	require.NoError(t, c.do(t.Context(), "read", func(*batch) error { return nil }))
	require.Equal(t, before, txid())
	require.NoError(t, c.do(t.Context(), "write", write("k")))
	require.Equal(t, before+1, txid())
}

// A field that Atlantis adds must not be lost silently.
func TestStoredLockHasEveryFieldOfStocks(t *testing.T) {
	t.Parallel()
	var lock models.ProjectLock
	fillFields(reflect.ValueOf(&lock).Elem())
	lock.Pull.URL, lock.Pull.BaseRepo.SanitizedCloneURL = "https://host/pull", "https://host/clone"
	data, err := encodeProjectLock(lock)
	require.NoError(t, err)
	read, err := decodeProjectLock(data)
	require.NoError(t, err)
	lock.Pull.BaseRepo.CloneURL = ""
	require.Equal(t, &lock, read)
}

func fillFields(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fillFields(v.Field(i))
		}
	case reflect.String:
		v.SetString("text")
	case reflect.Int:
		v.SetInt(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillFields(v.Index(0))
	default:
		panic("no value for " + v.Kind().String())
	}
}

func TestDecodeLockRecordRefusesDamage(t *testing.T) {
	t.Parallel()
	good := `{"n":"5","o":"user:a","p":1,"a":7,"s":"x"}`
	_, err := decodeLockRecord("org/app", []byte(good))
	require.NoError(t, err)
	for _, bad := range []string{
		``, `null`, `[]`, `{}`, `"x"`, good[:20],
		`{"n":5,"o":"user:a","a":7,"s":"x"}`,
		`{"n":"0","o":"user:a","a":7,"s":"x"}`,
		`{"n":"99999999999999999999","o":"user:a","a":7,"s":"x"}`,
		`{"n":"5","o":"a","a":7,"s":"x"}`,
		`{"n":"5","o":"user:a","a":0,"s":"x"}`,
		`{"n":"5","o":"user:a","a":7,"x":-1,"s":"x"}`,
		`{"n":"5","o":"user:a","a":7}`,
		`{"n":"5","h":"github.com","a":7,"s":"x"}`,
		`{"n":"5","h":"github.com/x","a":7,"s":"x"}`,
		`{"n":"5","o":"user:a","w":5,"s":"x"}`,
		`{"n":"5","o":"user:a","a":7,"u":"AAAA","s":"x"}`,
		`{"n":"5","o":"user:a","a":7,"u":"*","s":"x"}`,
	} {
		_, err := decodeLockRecord("org/app", []byte(bad))
		require.Error(t, err, bad)
	}
}

// A pull request with more locks than one step frees is closed to new grants
// until all are free, or until whoever frees them has been gone for a minute.
func TestNoGrantsToAPullRequestThatIsBeingClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, &bbolt.Options{NoSync: true})
		require.NoError(t, err)
		b, err := NewBoltBackend(db, nil, nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, errors.Join(b.Close(), db.Close())) }()
		request := func(number int, path string) *enhanced.EnhancedLockRequest {
			return &enhanced.EnhancedLockRequest{
				Project: models.NewProject("org/app", path, ""), Workspace: "default",
				Timeout: enhanced.NoTimeout, Pull: &models.PullRequest{Num: number},
			}
		}
		for i := range maxStep + 1 {
			_, err := b.AcquireLock(t.Context(), request(5, strconv.Itoa(i)))
			require.NoError(t, err)
		}
		// The first of several steps, whose process then dies.
		page, err := decide(t.Context(), b.committer, "first page", func(batch *batch) (releasedPage, error) {
			return b.repositoryStep(batch, "org/app").releaseByPull(5, nil, change{})
		})
		require.NoError(t, err)
		require.True(t, page.more)
		require.Len(t, page.locks, closingPage)

		_, err = b.AcquireLock(t.Context(), request(5, "new"))
		require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
		_, err = b.AcquireLock(t.Context(), request(6, "new"))
		require.NoError(t, err)
		<-time.After(closingTimeout)
		_, err = b.AcquireLock(t.Context(), request(5, "newer"))
		require.NoError(t, err)
	})
}

// A refresh that was decided before a lease's end and is committed after it
// must not make the lock come back for whoever has seen it gone.
func TestReadersClockStandsStillWhileABatchIsWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, nil)
		require.NoError(t, err)
		b, err := NewBoltBackend(db, nil, nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, errors.Join(b.Close(), db.Close())) }()
		lock, err := b.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", ".", ""), Workspace: "default",
			Timeout: time.Second, User: models.User{Username: "alice"},
		})
		require.NoError(t, err)

		decided, end := make(chan struct{}), make(chan struct{})
		refreshed := make(chan error, 1)
		go func() {
			_, err := b.changeLock(context.Background(), "refresh", lock.ID, func(s *repositoryStep, f *finding) error {
				f.record.Expires = s.now + time.Hour.Microseconds()
				close(decided)
				<-end
				return s.putRecord(f.resource, f.record)
			})
			refreshed <- err
		}()
		<-decided
		<-time.After(2 * time.Second) // past the old end, before the commit
		_, err = b.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
		_, err = b.LookupLock(t.Context(), lock.Resource)
		require.NoError(t, err)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 1)
		close(end)
		require.NoError(t, <-refreshed)
		_, err = b.GetLock(t.Context(), lock.ID)
		require.NoError(t, err)
	})
}
