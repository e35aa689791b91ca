package backends

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// A panic of bbolt in a commit, or a step that ends its goroutine, stops the backend and
// leaves the file to others, whoever commits.
func TestABrokenCommitEndsAllOthers(t *testing.T) {
	t.Parallel()
	disorder := func(batch *batch) error {
		batch.dirty = true
		// A bucket that is not where its name belongs: bbolt panics while it commits.
		if _, err := batch.tx.CreateBucket([]byte("b")); err != nil {
			return err
		}
		key, _ := batch.tx.Cursor().Seek([]byte("b"))
		key[0] = 'z'
		return nil
	}
	for name, c := range map[string]struct {
		// step ends with a panic in its commit, or ends its goroutine.
		step  func(batch *batch) error
		leads bool
	}{
		"a panic while a caller commits":             {step: disorder, leads: true},
		"a panic in the committer's goroutine":       {step: disorder},
		"a caller's goroutine that ends in its step": {step: func(*batch) error { runtime.Goexit(); return nil }, leads: true},
		"a step that ends the committer's goroutine": {step: func(*batch) error { runtime.Goexit(); return nil }},
		"a panic after the commit": {step: func(batch *batch) error {
			batch.dirty = true
			batch.after = append(batch.after, func() { panic("after") })
			return nil
		}, leads: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openInternal(t, nil)
			b.committer.spareAfter = time.Now().Add(time.Hour) // nothing commits but the test
			lock, err := b.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Project: models.NewProject("org/app", ".", ""), Workspace: "default", User: models.User{Username: "alice"},
			})
			require.NoError(t, err)
			b.db.StrictMode = true
			ctx := t.Context()
			if c.leads {
				ctx = context.Background()
			}
			answers := make(chan error, 1)
			go func() {
				defer close(answers) // all that comes of a goroutine that has ended
				answers <- b.committer.do(ctx, "break", c.step)
			}()
			if err, answered := <-answers; answered {
				require.ErrorIs(t, err, enhanced.ErrBackend)
				require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
			}
			err = b.ReleaseLock(t.Context(), lock.ID)
			require.ErrorIs(t, err, enhanced.ErrBackend)
			require.ErrorContains(t, err, "until the file is opened again")
			require.NotErrorIs(t, err, enhanced.ErrOutcomeUnknown)
			_, err = b.ListLocks(t.Context())
			require.ErrorIs(t, err, enhanced.ErrBackend)
			require.ErrorIs(t, b.HealthCheck(t.Context()), enhanced.ErrBackend)
			// Others, as stock on the same handle, are not kept from the file.
			tx, err := b.db.Begin(true)
			require.NoError(t, err)
			require.NoError(t, tx.Rollback())
		})
	}
}

// A loop that has met a panic of bbolt writes nothing more, not even pages for later.
func TestABrokenCommitIsTheLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openInternal(t, nil)
		steps, run := 0, b.committer.run
		b.committer.run = func(batch *batch, step func(*batch) error) error {
			steps++
			return run(batch, step)
		}
		require.Error(t, b.committer.do(t.Context(), "break", func(batch *batch) error {
			batch.dirty = true
			batch.after = append(batch.after, func() { panic("after") })
			return nil
		}))
		synctest.Wait()
		require.Equal(t, 1, steps)
		require.True(t, b.committer.lacksPages())
	})
}
