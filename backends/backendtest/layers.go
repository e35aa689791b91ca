package backendtest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/events/vcs/bitbucketcloud"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// layer is a way to a store: the backend, or what Atlantis puts before it. The
// cases of testLayers run on each.
type layer interface {
	// tryLock takes a lock for its pull request, or returns the number of the
	// pull request that has it.
	tryLock(lock models.ProjectLock) (acquired bool, holder int, err error)
	// release gives back one lock that was acquired.
	release(lock models.ProjectLock) error
	// closePull releases all locks of a pull request.
	closePull(repository string, number int) ([]models.ProjectLock, error)
	// list returns all locks.
	list() ([]models.ProjectLock, error)
}

// layers are all ways to a store, from below to above.
func layers() map[string]func(t *testing.T, a *enhanced.LockingAdapter, b enhanced.Backend) layer {
	return map[string]func(t *testing.T, a *enhanced.LockingAdapter, b enhanced.Backend) layer{
		"backend": func(t *testing.T, _ *enhanced.LockingAdapter, b enhanced.Backend) layer {
			return &backendLayer{t: t, b: b, tokens: make(map[string]int64)}
		},
		"adapter": func(_ *testing.T, a *enhanced.LockingAdapter, _ enhanced.Backend) layer {
			return databaseLayer{a}
		},
		"client": func(t *testing.T, a *enhanced.LockingAdapter, _ enhanced.Backend) layer {
			return clientLayer{t, locking.NewClient(a)}
		},
		"project locker": func(t *testing.T, a *enhanced.LockingAdapter, _ enhanced.Backend) layer {
			client := locking.NewClient(a)
			return &lockerLayer{clientLayer: clientLayer{t, client}, locker: newProjectLocker(client), unlock: make(map[string]func() error)}
		},
	}
}

// backendLayer also holds what only a backend shows: tokens and IDs.
type backendLayer struct {
	t *testing.T
	b enhanced.Backend

	mu     sync.Mutex // protects tokens
	tokens map[string]int64
}

func (l *backendLayer) tryLock(lock models.ProjectLock) (acquired bool, holder int, err error) {
	got, acquired, err := l.b.TryAcquireLock(l.t.Context(), &enhanced.EnhancedLockRequest{
		Resource: enhanced.ProjectResource(lock.Project, lock.Workspace), Pull: &lock.Pull, User: lock.User,
		Priority: enhanced.PriorityNormal, Timeout: enhanced.NoTimeout, RequestedAt: lock.Time,
	})
	if err != nil {
		return false, 0, err
	}
	if acquired {
		l.mu.Lock()
		defer l.mu.Unlock()
		if last := l.tokens[got.Resource.Namespace]; got.Version <= last {
			return false, 0, fmt.Errorf("token %d was granted after token %d", got.Version, last)
		}
		l.tokens[got.Resource.Namespace] = got.Version
	}
	return acquired, got.OriginalLock.Pull.Num, nil
}

func (l *backendLayer) release(lock models.ProjectLock) error {
	resource := enhanced.ProjectResource(lock.Project, lock.Workspace)
	owner := enhanced.PullOwner(lock.Pull.BaseRepo.VCSHost.Hostname, resource.Namespace, lock.Pull.Num)
	_, err := l.b.Release(l.t.Context(), enhanced.ReleaseRequest{Resource: resource, Owner: owner.String()})
	return err
}

func (l *backendLayer) closePull(repository string, number int) ([]models.ProjectLock, error) {
	locks, err := l.b.ReleaseByPull(l.t.Context(), repository, number, enhanced.SystemAtlantis)
	return originals(locks), err
}

func (l *backendLayer) list() ([]models.ProjectLock, error) {
	locks, err := l.b.ListLocks(l.t.Context())
	for _, lock := range locks {
		found, err := l.b.GetLock(l.t.Context(), lock.ID)
		require.NoError(l.t, err)
		require.Equal(l.t, lock, found, "its ID leads to it")
		require.Equal(l.t, lock.Resource, enhanced.ProjectResource(lock.OriginalLock.Project, lock.OriginalLock.Workspace))
	}
	return originals(locks), err
}

func originals(locks []*enhanced.EnhancedLock) []models.ProjectLock {
	all := make([]models.ProjectLock, 0, len(locks))
	for _, lock := range locks {
		all = append(all, *lock.OriginalLock)
	}
	return all
}

// databaseLayer is Atlantis' database, which the adapter is.
type databaseLayer struct{ db.Database }

func (l databaseLayer) tryLock(lock models.ProjectLock) (acquired bool, holder int, err error) {
	acquired, got, err := l.TryLock(lock)
	return acquired, got.Pull.Num, err
}

func (l databaseLayer) release(lock models.ProjectLock) error {
	released, err := l.UnlockIfOwnedByPull(lock.Project, lock.Workspace, lock.Pull.Num)
	if err == nil && released == nil {
		err = fmt.Errorf("%v was not held", lock.Project)
	}
	return err
}

func (l databaseLayer) closePull(repository string, number int) ([]models.ProjectLock, error) {
	return l.UnlockByPull(repository, number)
}

func (l databaseLayer) list() ([]models.ProjectLock, error) { return l.List() }

// clientLayer is Atlantis' locking client, which names locks by key.
type clientLayer struct {
	t      *testing.T
	client *locking.Client
}

func (l clientLayer) tryLock(lock models.ProjectLock) (acquired bool, holder int, err error) {
	response, err := l.client.TryLock(lock.Project, lock.Workspace, lock.Pull, lock.User)
	return response.LockAcquired, response.CurrLock.Pull.Num, err
}

func (l clientLayer) release(lock models.ProjectLock) error {
	key := models.GenerateLockKey(lock.Project, lock.Workspace)
	if _, err := locking.IsCurrentLocking(key); err != nil {
		// The client can't read its own key of a repository without a slash, and
		// so can't name the lock: Atlantis releases it with the pull request.
		released, err := l.client.UnlockIfOwnedByPull(lock.Project, lock.Workspace, lock.Pull.Num)
		require.NotNil(l.t, released)
		return err
	}
	// Where it cuts the key at the wrong slash, the lock is found all the same.
	found, err := l.client.GetLock(key)
	require.NoError(l.t, err, "%q", key)
	require.NotNil(l.t, found, "%q", key)
	require.Equal(l.t, lock.Pull.Num, found.Pull.Num)
	released, err := l.client.Unlock(key)
	require.Equal(l.t, found, released)
	return err
}

func (l clientLayer) closePull(repository string, number int) ([]models.ProjectLock, error) {
	return l.client.UnlockByPull(repository, number)
}

func (l clientLayer) list() ([]models.ProjectLock, error) {
	// By key: of several locks with one key it shows one.
	locks, err := l.client.List()
	return slices.Collect(maps.Values(locks)), err
}

// lockerLayer is what plans a project: it only takes locks and gives them back.
// Closing and listing go through the client in Atlantis, and here.
type lockerLayer struct {
	clientLayer
	locker *events.DefaultProjectLocker

	mu     sync.Mutex // protects unlock
	unlock map[string]func() error
}

func newProjectLocker(client *locking.Client) *events.DefaultProjectLocker {
	return &events.DefaultProjectLocker{
		Locker:         client,
		NoOpLocker:     locking.NewNoOpLocker(),
		VCSClient:      bitbucketcloud.New(http.DefaultClient, "", "", "", "https://atlantis.invalid"),
		ExecutableName: "atlantis",
	}
}

func (l *lockerLayer) tryLock(lock models.ProjectLock) (acquired bool, holder int, err error) {
	response, err := l.locker.TryLock(logging.NewNoopLogger(l.t), lock.Pull, lock.User, lock.Workspace, lock.Project, true)
	if err != nil {
		return false, 0, err
	}
	if !response.LockAcquired {
		// It names the holder in its comment only.
		_, rest, _ := strings.Cut(response.LockFailureReason, "#")
		_, err = fmt.Sscanf(rest, "%d", &holder)
		return false, holder, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlock[response.LockKey] = response.UnlockFn
	return true, lock.Pull.Num, nil
}

func (l *lockerLayer) release(lock models.ProjectLock) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unlock[models.GenerateLockKey(lock.Project, lock.Workspace)]()
}
