package backends

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// inStep runs fn in a step on a repository that changes nothing. It must return: a check
// in it must not end the test, which would keep the file's write lock.
func inStep(t *testing.T, b *BoltBackend, repository string, fn func(s *repositoryStep)) {
	t.Helper()
	require.NoError(t, b.committer.do(t.Context(), "test", func(batch *batch) error {
		fn(b.repositoryStep(batch, repository))
		return nil
	}))
}

func openInternal(t *testing.T, config *enhanced.EnhancedConfig) *BoltBackend {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	b, err := NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(b.Close(), db.Close())) })
	return b
}

// What is known of a grant without reading it is what a reader finds, whatever the
// caller of the grant does with its answer.
func TestAKnownGrantIsWhatTheFileHas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		request        enhanced.EnhancedLockRequest
		inOurs, unsure bool
	}{
		"of a pull request": {request: enhanced.EnhancedLockRequest{Pull: &models.PullRequest{
			Num: 5, HeadCommit: "abc", BaseRepo: models.Repo{FullName: "org/app", CloneURL: "https://user:secret@host/org/app"},
		}}},
		"of a user with a lease": {request: enhanced.EnhancedLockRequest{
			User: models.User{Username: "alice", Teams: []string{"a", "b"}}, Timeout: time.Hour,
			Metadata: map[string]string{"why": "<test>"}, RequestedAt: time.Now().In(time.FixedZone("", 5400)),
		}},
		"with empty fields": {request: enhanced.EnhancedLockRequest{
			User: models.User{Username: "alice", Teams: []string{}}, Metadata: map[string]string{}, ID: "one",
		}},
		"in our record":    {request: enhanced.EnhancedLockRequest{User: models.User{Username: "alice"}}, inOurs: true},
		"what is no UTF-8": {request: enhanced.EnhancedLockRequest{Pull: &models.PullRequest{Num: 5, Body: "\xff"}}, unsure: true},
		"a time to the second": {request: enhanced.EnhancedLockRequest{
			User: models.User{Username: "alice"}, RequestedAt: time.Now().In(time.FixedZone("", 61)),
		}, unsure: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := enhanced.DefaultConfig()
			config.PreserveLegacyFormat = !c.inOurs
			b := openInternal(t, config)
			r := c.request
			r.Project, r.Workspace = models.NewProject("org/app", "p", ""), "default"
			lock, err := b.AcquireLock(t.Context(), &r)
			require.NoError(t, err)
			if lock.Metadata != nil {
				lock.Metadata["why"] = "changed"
			}
			for i := range lock.OriginalLock.User.Teams {
				lock.OriginalLock.User.Teams[i] = "changed"
			}
			inStep(t, b, "org/app", func(s *repositoryStep) {
				e := s.entry(lock.Resource, s.get(lockKey(lock.Resource.Key())))
				known, isKnown := s.grants.finding(e)
				assert.Equal(t, !c.unsure, isKnown)
				if isKnown {
					read := e.judge()
					assert.Equal(t, read.lock(), known.lock())
					assert.Equal(t, read, known)
				}
			})
			inStep(t, b, "org/app", func(s *repositoryStep) {
				e := s.entry(lock.Resource, append([]byte(" "), s.get(lockKey(lock.Resource.Key()))...))
				_, isKnown := s.grants.finding(e)
				assert.False(t, isKnown, "the file has something else")
			})
			require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
			require.Empty(t, b.grants)
		})
	}
}

func TestFewGrantsAreKnown(t *testing.T) {
	t.Parallel()
	g := make(grants)
	for i := range 3 * maxGrants {
		g.note(enhanced.ResourceIdentifier{Path: string(rune('a' + i))}, &granted{})
		require.LessOrEqual(t, len(g), maxGrants)
	}
}

// usedRanges compares what is known of the rare ranges with the file.
func usedRanges(t *testing.T, b *BoltBackend) (used ranges) {
	t.Helper()
	inStep(t, b, "org/app", func(s *repositoryStep) {
		used = s.memory().used
		fromFile := &memory{}
		fromFile.readRanges(s.repository)
		assert.Equal(t, fromFile.used, used)
	})
	return used
}

// Steps know in which ranges nothing is, after every change and after none.
func TestWhatIsVacantIsKnown(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	b := openInternal(t, config)
	ask := func(number int) *enhanced.EnhancedLockRequest {
		return &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", ".", ""), Workspace: "default", Detached: true,
			Timeout: enhanced.NoTimeout, Pull: &models.PullRequest{Num: number},
		}
	}
	first := enhanced.PullOwner("", "org/app", 1)
	undone := errors.New("undone")
	release := func(reserve bool) error {
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: enhanced.ProjectResource(ask(1).Project, "default"), Owner: first.String(), Reserve: reserve,
		})
		return err
	}
	try := func(number int) error {
		_, _, err := b.TryAcquireLock(t.Context(), ask(number))
		return err
	}
	undo := func(ctx context.Context) error {
		err := b.committer.do(ctx, "test", func(batch *batch) error {
			s := b.repositoryStep(batch, "org/app")
			for _, letter := range rareRanges() {
				assert.NoError(t, s.put([]byte{letter, 'x'}, present()))
			}
			cursor := s.bucket.Cursor()
			for _, letter := range rareRanges() {
				for key, _ := cursor.Seek([]byte{letter}); len(key) > 0 && key[0] == letter; key, _ = cursor.Seek([]byte{letter}) {
					assert.NoError(t, s.delete(append([]byte{}, key...)))
				}
			}
			assert.Zero(t, s.known.used)
			return undone
		})
		require.ErrorIs(t, err, undone)
		return nil
	}
	for _, step := range []struct {
		name string
		do   func() error
		used string
	}{
		{"take", func() error { return try(1) }, ""},
		{"wait", func() error { return try(2) }, "quw"},
		{"reserve", func() error { return release(true) }, "qsuvw"},
		{"ask again, undone", func() error { return undo(t.Context()) }, "qsuvw"},
		{"ask for more", func() error {
			more := ask(1)
			more.Project = models.NewProject("org/app", "more", "")
			_, _, err := b.TryAcquireLock(t.Context(), more)
			return err
		}, "nqsuvw"},
		{"take back", func() error { return try(1) }, "quw"},
		{"give", func() error { return release(false) }, ""},
		{"close", func() error { return b.ClosePull(t.Context(), first, "") }, "t"},
		{"end", func() error { return b.EndRun(t.Context(), first) }, ""},
	} {
		require.NoError(t, step.do(), step.name)
		var want ranges
		for _, letter := range []byte(step.used) {
			want.add(letter)
		}
		require.Equal(t, want, usedRanges(t, b), step.name)
	}
}
