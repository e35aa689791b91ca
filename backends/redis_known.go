package backends

import (
	"context"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// maxKnownLocks bounds the locks of which a process knows the resource.
const maxKnownLocks = 4096

// knownLocks has the resources of locks that this process was granted, by their
// IDs, so that who releases or renews one does not ask the store where it is. An ID
// never leads to another resource, and the step checks both, so what is in here can
// be out of date without harm.
type knownLocks struct {
	mu  sync.Mutex // protects all
	all map[string]enhanced.ResourceIdentifier
}

func (k *knownLocks) add(lock *enhanced.EnhancedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || len(k.all) >= maxKnownLocks {
		k.all = make(map[string]enhanced.ResourceIdentifier)
	}
	k.all[lock.ID] = lock.Resource
}

func (k *knownLocks) remove(lockID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.all, lockID)
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
		b.locks.add(lock)
	}
	return lock, err
}
