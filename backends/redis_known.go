package backends

import (
	"context"
	"slices"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// maxKnownLocks bounds the locks of which a process knows the resource.
const maxKnownLocks = 4096

// knownLocks has what this process was granted. It knows the resources of locks by
// their IDs, so that who releases or renews one does not ask the store where it is:
// an ID never leads to another resource, and the step checks both. And it has
// stock's form of locks by resource and token, so that a release need not read it
// back. So what is in here can be out of date without harm.
type knownLocks struct {
	mu    sync.Mutex // protects all
	all   map[string]enhanced.ResourceIdentifier
	forms map[enhanced.ResourceIdentifier]form
}

// maxKnownBody bounds the description of a pull request in a form that is kept.
const maxKnownBody = 4 << 10

// form is stock's form of the lock with a token.
type form struct {
	token    int64
	original models.ProjectLock
}

// add takes in a lock. It is whole when it is stored as it is here, without metadata.
func (k *knownLocks) add(lock *enhanced.EnhancedLock, whole bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || len(k.all) >= maxKnownLocks || len(k.forms) >= maxKnownLocks {
		k.all = make(map[string]enhanced.ResourceIdentifier)
		k.forms = make(map[enhanced.ResourceIdentifier]form)
	}
	k.all[lock.ID] = lock.Resource
	if whole && len(lock.OriginalLock.Pull.Body) <= maxKnownBody {
		k.forms[lock.Resource] = form{token: lock.Version, original: copied(*lock.OriginalLock)}
	}
}

func (k *knownLocks) remove(lockID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.forms, k.all[lockID])
	delete(k.all, lockID)
}

// forget drops the form of a lock that has ended.
func (k *knownLocks) forget(lock *enhanced.EnhancedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forms[lock.Resource].token == lock.Version {
		delete(k.forms, lock.Resource)
		delete(k.all, lock.ID)
	}
}

// form returns what is known of the lock that a resource may have.
func (k *knownLocks) form(resource enhanced.ResourceIdentifier) (form, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, is := k.forms[resource]
	return f, is
}

// copied shares nothing that can be changed.
func copied(lock models.ProjectLock) models.ProjectLock {
	lock.User.Teams = slices.Clone(lock.User.Teams)
	return lock
}

// known is locate for a step that looks for itself whether the lock is there.
func (b *RedisBackend) known(ctx context.Context, lockID string) (location, error) {
	b.locks.mu.Lock()
	resource, is := b.locks.all[lockID]
	b.locks.mu.Unlock()
	if !is {
		return b.locate(ctx, lockID)
	}
	_, token, _ := enhanced.ParseLockID(lockID)
	return location{resource: resource, token: token}, nil
}

// granted is the new lock of a request, see grantedLock.
func (b *RedisBackend) granted(r *enhanced.EnhancedLockRequest, tag, owner string, original models.ProjectLock, token, acquired, expires string) (*enhanced.EnhancedLock, error) {
	lock, err := grantedLock(r, tag, owner, original, token, acquired, expires)
	if err == nil {
		b.locks.add(lock, len(r.Metadata) == 0)
	}
	return lock, err
}
