package tests

import (
	"context"
	"errors"
	"sync"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// errCrashed is what a process that has ended is answered: nothing that it could
// act on.
var errCrashed = errors.New("the process has ended")

// crash ends what stands for a process at a point: from then on it reaches
// neither of its two databases.
type crash struct {
	mu   sync.Mutex // protects below
	at   string
	skip int // how often the point is passed before
	dead bool
}

// reach returns an error once the process has ended.
func (c *crash) reach(point string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead && c.at == point {
		c.dead = c.skip == 0
		c.skip--
	}
	if c.dead {
		return errCrashed
	}
	return nil
}

// arm has the process end at a point.
func (c *crash) arm(point string, skip int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.skip = point, skip
}

func (c *crash) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

// dying calls one of the two databases, unless the process ends before; if it
// ends after, nobody gets the answer.
func dying[T any](c *crash, point string, call func() (T, error)) (T, error) {
	var none T
	if err := c.reach("before " + point); err != nil {
		return none, err
	}
	answer, err := call()
	if ended := c.reach("after " + point); ended != nil {
		return none, ended
	}
	return answer, err
}

type dyingLegacy struct {
	kept
	*crash
}

func (l dyingLegacy) TryLock(lock models.ProjectLock) (acquired bool, holder models.ProjectLock, err error) {
	acquired, err = dying(l.crash, "legacy lock", func() (bool, error) {
		acquired, holder, err = l.kept.TryLock(lock)
		return acquired, err
	})
	return acquired, holder, err
}

func (l dyingLegacy) Unlock(p models.Project, workspace string) (*models.ProjectLock, error) {
	return dying(l.crash, "legacy unlock", func() (*models.ProjectLock, error) { return l.kept.Unlock(p, workspace) })
}

func (l dyingLegacy) UpdatePullWithResults(pull models.PullRequest, results []command.ProjectResult) (models.PullStatus, error) {
	return dying(l.crash, "journal", func() (models.PullStatus, error) { return l.kept.UpdatePullWithResults(pull, results) })
}

func (l dyingLegacy) DeletePullStatus(pull models.PullRequest) error {
	_, err := dying(l.crash, "journal end", func() (bool, error) { return true, l.kept.DeletePullStatus(pull) })
	return err
}

func (l dyingLegacy) GetLock(p models.Project, workspace string) (*models.ProjectLock, error) {
	return dying(l.crash, "legacy read", func() (*models.ProjectLock, error) { return l.kept.GetLock(p, workspace) })
}

type dyingStore struct {
	*backends.RedisBackend
	*crash
}

func (s dyingStore) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (lock *enhanced.EnhancedLock, acquired bool, err error) {
	lock, err = dying(s.crash, "store lock", func() (*enhanced.EnhancedLock, error) {
		lock, acquired, err = s.RedisBackend.TryAcquireLock(ctx, request)
		return lock, err
	})
	return lock, acquired, err
}

func (s dyingStore) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	return dying(s.crash, "store unlock", func() (*enhanced.EnhancedLock, error) { return s.RedisBackend.Release(ctx, request) })
}

func (s dyingStore) TransferLock(ctx context.Context, lockID, owner string) error {
	_, err := dying(s.crash, "store transfer", func() (bool, error) { return true, s.RedisBackend.TransferLock(ctx, lockID, owner) })
	return err
}

func (s dyingStore) LocksByLegacyKey(ctx context.Context, key string) ([]*enhanced.EnhancedLock, error) {
	return dying(s.crash, "store read", func() ([]*enhanced.EnhancedLock, error) { return s.RedisBackend.LocksByLegacyKey(ctx, key) })
}

// mortal starts an adapter that can end at a point.
func (s *site) mortal(t *testing.T) (*enhanced.LockingAdapter, *crash) {
	t.Helper()
	c := &crash{}
	legacy, ok := s.legacy.(kept)
	require.True(t, ok)
	return s.startOn(t, dyingStore{s.backend(t), c}, dyingLegacy{legacy, c}), c
}

// What becomes of a process that ends between its writes: the next one makes both
// databases agree, and what was acknowledged is there. Something that nobody was
// told of may be held, for who asked for it.
func TestFallbackCrashPoints(t *testing.T) {
	t.Parallel()
	x := models.NewProject(fallbackRepo, "x", "")
	lock := func(t *testing.T, a *enhanced.LockingAdapter) {
		t.Helper()
		tryFor(t, a, 5, "x")
	}
	unlock := func(t *testing.T, a *enhanced.LockingAdapter) {
		t.Helper()
		_, err := a.Unlock(x, "default")
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		point string
		// before is done by the process while all is well, then it does, with the
		// store away if cut, what it does not survive.
		before func(*testing.T, *enhanced.LockingAdapter)
		cut    bool
		acts   func(a *enhanced.LockingAdapter) error
		// left is who has it in both databases once the next process has started:
		// the number of a pull request, 0 for nobody.
		left int
		// told is set if the caller has its answer.
		told bool
	}{
		"a lock, before anything":        {"before legacy lock", nil, false, tries, 0, false},
		"a lock, not yet in the store":   {"before store lock", nil, false, tries, 5, false},
		"a lock, not yet acknowledged":   {"after store lock", nil, false, tries, 5, false},
		"a release, before anything":     {"before store unlock", lock, false, unlocks, 5, false},
		"a release, still in legacy":     {"after store unlock", lock, false, unlocks, 0, false},
		"a release, done in both":        {"after legacy unlock", lock, false, unlocks, 0, true},
		"away: a lock, not noted yet":    {"before journal", nil, true, tries, 5, false},
		"away: a lock, not acknowledged": {"after journal", nil, true, tries, 5, false},
		"away: a release, not noted yet": {"before journal", lock, true, unlocks, 5, false},
		"away: a release, still there":   {"before legacy unlock", lock, true, unlocks, 0, false},
		"away: a release, there is none": {"after legacy unlock", lock, true, unlocks, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, redistest.Start(t, redistest.Options{}))
			adapter, crash := s.mortal(t)
			take(t, adapter, lockOf("org/warm", 1, "."))
			if c.before != nil {
				c.before(t, adapter)
			}
			if c.cut {
				s.cut()
			}
			crash.arm(c.point, 0)
			err := c.acts(adapter)
			require.True(t, crash.isDead(), "it has come to the point")
			require.Equal(t, c.told, err == nil, "%v", err)
			require.NoError(t, adapter.Close())
			s.proxy.Heal()

			next := s.start(t, s.legacy)
			tryFor(t, next, 1, "something else")
			require.Equal(t, enhanced.FallbackReady, next.Fallback().State, next.Fallback().Reason)
			require.Empty(t, next.Fallback().Unsettled)
			want := ""
			if c.left != 0 {
				want = pullText(c.left)
			}
			require.Equal(t, want, s.inStore(t, "x"))
			require.Equal(t, c.left, s.inLegacy(t, "x"))
			if c.left == 0 {
				lock(t, next)
			}
			unlock(t, next)
			acquired, _ := tryFor(t, next, 6, "x")
			require.True(t, acquired, "and it goes on as usual")
		})
	}
}

func tries(a *enhanced.LockingAdapter) error {
	_, _, err := a.TryLock(lockOf(fallbackRepo, 5, "x"))
	return err
}

func unlocks(a *enhanced.LockingAdapter) error {
	_, err := a.Unlock(models.NewProject(fallbackRepo, "x", ""), "default")
	return err
}

// A process that ends while it brings into the store what the legacy database has
// decided leaves the rest to the next one.
func TestFallbackCrashWhileReconciling(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		"before store lock", "after store lock", "before store unlock", "after store unlock", "before store transfer", "after store transfer",
		"before journal", "after journal", "before journal end", "after journal end",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, redistest.Start(t, redistest.Options{}))
			adapter, crash := s.mortal(t)
			for _, path := range []string{"kept", "given back", "passed on"} {
				take(t, adapter, lockOf(fallbackRepo, 5, path))
			}
			s.cut()
			for _, path := range []string{"given back", "passed on"} {
				_, err := adapter.Unlock(models.NewProject(fallbackRepo, path, ""), "default")
				require.NoError(t, err)
			}
			for _, path := range []string{"passed on", "new"} {
				acquired, _ := tryFor(t, adapter, 6, path)
				require.True(t, acquired)
			}
			crash.arm(point, 0)
			s.proxy.Heal()
			backendtest.Eventually(t, "it has come to the point", crash.isDead)
			require.NoError(t, adapter.Close())

			next := s.start(t, s.legacy)
			tryFor(t, next, 1, "something else")
			require.Empty(t, next.Fallback().Unsettled)
			for path, number := range map[string]int{"kept": 5, "given back": 0, "passed on": 6, "new": 6} {
				want := ""
				if number != 0 {
					want = pullText(number)
				}
				require.Equal(t, want, s.inStore(t, path), path)
				require.Equal(t, number, s.inLegacy(t, path), path)
			}
		})
	}
}
