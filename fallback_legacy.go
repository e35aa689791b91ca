package enhanced

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// legacyOwner is who holds a lock of the legacy database. One without a pull
// request is a user's that the fallback has written.
func legacyOwner(lock models.ProjectLock) Owner {
	if lock.Pull.Num == 0 && lock.Pull.BaseRepo.FullName == "" && lock.User.Username != "" {
		return UserOwner(lock.User.Username)
	}
	return ProjectLockOwner(lock)
}

func legacyResource(lock models.ProjectLock) ResourceIdentifier {
	return ProjectResource(lock.Project, lock.Workspace)
}

// legacyRecord is what the legacy database keeps of a lock: without credentials,
// under the resource's key, and such that legacyOwner tells the owner.
func legacyRecord(resource ResourceIdentifier, owner Owner, lock models.ProjectLock) models.ProjectLock {
	lock = SanitizeProjectLock(lock)
	lock.Project, lock.Workspace = resource.Project(), resource.Workspace
	if lock.Time.IsZero() {
		lock.Time = time.Now()
	}
	if owner.Kind != OwnerPull {
		lock.Pull, lock.User = models.PullRequest{}, models.User{Username: owner.Name}
		return lock
	}
	lock.Pull.Num = owner.Number
	lock.Pull.BaseRepo.VCSHost.Hostname = owner.Host
	lock.Pull.BaseRepo.FullName = cmp.Or(lock.Pull.BaseRepo.FullName, resource.Namespace)
	return lock
}

// sameOwner reports whether a recorded owner, in text form, is the owner.
func sameOwner(recorded string, owner Owner) bool {
	if recorded == owner.String() {
		return true
	}
	other, err := ParseOwner(recorded)
	return err == nil && (owner.SamePull(other) || other.SamePull(owner))
}

// isRecordOf reports whether a record of the legacy database is of a lock.
func isRecordOf(record models.ProjectLock, lock *EnhancedLock) bool {
	return legacyResource(record) == lock.Resource && sameOwner(lock.Owner, legacyOwner(record))
}

// put has the legacy database hold a lock of the store, and nothing else under
// its key.
func (f *fallback) put(lock *EnhancedLock) error {
	owner, err := ParseOwner(lock.Owner)
	if err != nil {
		return err
	}
	record := models.ProjectLock{User: models.User{Username: owner.Name}}
	if lock.OriginalLock != nil {
		record = *lock.OriginalLock
	}
	if !lock.AcquiredAt.IsZero() {
		record.Time = lock.AcquiredAt // to be compared with the times of the log
	}
	record = legacyRecord(lock.Resource, owner, record)
	made, holder, err := f.legacy.TryLock(record)
	if err == nil && !made && !isRecordOf(holder, lock) {
		if _, err = f.legacy.Unlock(record.Project, record.Workspace); err == nil {
			made, holder, err = f.legacy.TryLock(record)
		}
		if err == nil && !made {
			err = fmt.Errorf("somebody else has locked %s there, for %s; nobody but this process may use it", lock.Resource, legacyOwner(holder))
		}
	}
	if err != nil {
		return legacyFailed(err)
	}
	return nil
}

// remove has the legacy database hold nothing under a resource's key.
func (f *fallback) remove(resource ResourceIdentifier) error {
	if _, err := f.legacy.Unlock(resource.Project(), resource.Workspace); err != nil {
		return legacyFailed(err)
	}
	return nil
}

// keep is put, and drop is remove, for a call whose answer is that of the store:
// where it fails, the resource is behind.
func (f *fallback) keep(lock *EnhancedLock) { f.fell(lock.Resource, f.put(lock)) }

func (f *fallback) drop(resource ResourceIdentifier) { f.fell(resource, f.remove(resource)) }

// fell notes whether the legacy database may lack something on a resource.
func (f *fallback) fell(resource ResourceIdentifier, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := resource.LegacyKey()
	if err == nil {
		delete(f.behind, key)
		delete(f.unsure, key)
		return
	}
	f.behind[key] = resource
}

// doubt notes that the store may not have granted what the legacy database has.
func (f *fallback) doubt(resource ResourceIdentifier, owner Owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsure[resource.LegacyKey()] = owner
	// It is looked at once more when the store answers.
	f.behind[resource.LegacyKey()] = resource
}

// trust notes that the store has granted what the legacy database has.
func (f *fallback) trust(resource ResourceIdentifier) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.unsure, resource.LegacyKey())
}

// follow has the legacy database hold what the store holds under a resource's
// key. The caller has the key's turn.
func (f *fallback) follow(ctx context.Context, resource ResourceIdentifier) error {
	err := f.copyKey(ctx, resource)
	if err == nil || errors.Is(err, errCrowded) {
		f.fell(resource, err)
		return nil
	}
	return err
}

func (f *fallback) copyKey(ctx context.Context, resource ResourceIdentifier) error {
	key := resource.LegacyKey()
	if _, is := f.journal.entry(key); is {
		return fmt.Errorf("%s is not settled", resource)
	}
	locks, err := f.store.repeat.locksByLegacyKey(ctx, f.store.backend, key)
	switch {
	case err != nil:
		return err
	case len(locks) == 0:
		return f.remove(resource)
	case len(locks) == 1:
		return f.put(locks[0])
	}
	record, err := f.legacy.GetLock(resource.Project(), resource.Workspace)
	if err != nil {
		return legacyFailed(err)
	}
	if record == nil {
		if err := f.put(locks[0]); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d resources with the key %q are locked: %w", len(locks), key, errCrowded)
}

// errCrowded says that several resources with one of stock's keys are locked.
var errCrowded = errors.New("the legacy database can hold one of them")

// refollow is follow for a caller that has not the key's turn, and whose answer
// does not depend on it. The event, nil for none, is why.
func (f *fallback) refollow(ctx context.Context, resource ResourceIdentifier, event *LockEvent) {
	if resource.Type != ResourceTypeProject {
		return
	}
	end, err := f.turn(ctx, resource.LegacyKey())
	if err != nil {
		f.fell(resource, err)
		return
	}
	defer end()
	if f.isAnsweringAlone() || event != nil && f.agrees(event) {
		return // all of it is looked at when the store is back
	}
	err = f.settle(ctx, resource)
	if err == nil {
		err = f.follow(ctx, resource)
	}
	if err != nil {
		f.fell(resource, err)
		f.logger.Debug("following the store on %s: %v", resource, err)
	}
}
