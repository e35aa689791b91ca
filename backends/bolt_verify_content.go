package backends

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// checkContent checks stock's form of a lock: in the record, or in stock's own
// bucket as its copy. A copy that stock has removed or replaced is no problem:
// the next step on the resource follows.
func (c *inspection) checkContent(key []byte, resource enhanced.ResourceIdentifier, record *lockRecord) {
	if record.Mirror == "" {
		c.checkOwnContent(key, resource, record)
		return
	}
	legacyKey := resource.LegacyKey()
	value := c.stock(legacyKey)
	if value == nil {
		return
	}
	if checksum(value) != record.Mirror {
		// Stock writes what can be read; anything else is damage, and the lock
		// stands.
		if rule, detail := judgeStock(legacyKey, value); rule != "" {
			c.rebuildCopy(rule, key, resource, record, "stock's copy of the lock: "+detail)
		}
		return
	}
	original, err := decodeProjectLock(value)
	switch {
	case err != nil:
		c.rebuildCopy(enhanced.RuleLockContent, key, resource, record, "stock's copy of the lock can't be read; the lock counts as unreadable")
	case isOf(original, resource, record.Owner):
		if hasCredential(original) {
			c.report(enhanced.RuleCredential, key, "stock's copy of the lock contains a credential").about(resource.Key()).
				repairs("write the copy again, without", func(s *repositoryStep, _ change) error { return s.rewriteCopy(resource, original) })
		}
	case c.isCopyOf(resource, original, record.Mirror):
		other := enhanced.ProjectResource(original.Project, original.Workspace)
		p := c.report(enhanced.RuleStockShared, key, "stock's record is a copy of the lock on %s, too, and of that it says so", other).about(resource.Key()).writes()
		if content, err := contentFor(resource, record); err == nil {
			p.repairs("keep the lock without a copy that stock can see", func(s *repositoryStep, _ change) error {
				return s.replaceContent(resource, content, false)
			})
		}
	default:
		c.rebuildCopy(enhanced.RuleLockContent, key, resource, record, "stock's copy of the lock names another resource or owner than the lock")
	}
}

// checkOwnContent checks stock's form of a lock in the record itself.
func (c *inspection) checkOwnContent(key []byte, resource enhanced.ResourceIdentifier, record *lockRecord) {
	original, err := decodeProjectLock(record.Lock)
	if err == nil && isOf(original, resource, record.Owner) {
		if hasCredential(original) {
			c.report(enhanced.RuleCredential, key, "stock's form of the lock contains a credential").about(resource.Key()).
				repairs("write it again, without", func(s *repositoryStep, _ change) error {
					return s.replaceContent(resource, original, false)
				})
		}
		return
	}
	detail := "stock's form of the lock names another resource or owner than the lock"
	if err != nil {
		detail = "stock's form of the lock can't be read; the lock counts as unreadable"
	}
	key = bytes.Clone(key)
	p := c.report(enhanced.RuleLockContent, key, "%s", detail).about(resource.Key())
	if content, err := contentFor(resource, record); err == nil {
		where := c.where(key)
		p.quarantines(where, "; keep the lock, and make stock's form from it", func(s *repositoryStep, _ change) error {
			return errors.Join(s.quarantine(where, s.get(key)), s.replaceContent(resource, content, false))
		})
	}
}

// rebuildCopy reports a stock's copy that is damaged, while the lock is not.
func (c *inspection) rebuildCopy(rule string, key []byte, resource enhanced.ResourceIdentifier, record *lockRecord, detail string) {
	legacyKey := resource.LegacyKey()
	p := c.report(rule, key, "%s", detail).about(resource.Key())
	if content, err := contentFor(resource, record); err == nil {
		where := []byte(legacyName(legacyKey))
		p.quarantines(where, "; keep the lock, and make stock's copy from it", func(s *repositoryStep, _ change) error {
			return errors.Join(s.quarantine(where, s.legacy.Get([]byte(legacyKey))), s.replaceContent(resource, content, true))
		})
	}
}

// isOf reports whether stock's form of a lock is of a resource and an owner.
func isOf(original *models.ProjectLock, resource enhanced.ResourceIdentifier, owner string) bool {
	named := resource
	named.Namespace, named.Path, named.Name = original.Project.RepoFullName, original.Project.Path, original.Project.ProjectName
	named.Workspace = original.Workspace
	if named.Normalized() != resource.Normalized() {
		return false
	}
	if enhanced.ProjectLockOwner(*original).String() == owner {
		return true
	}
	return original.Pull.Num == 0 && enhanced.UserOwner(original.User.Username).String() == owner
}

// isCopyOf reports whether stock's record is the copy of the lock on the
// resource that it names, another one than resource.
func (c *inspection) isCopyOf(resource enhanced.ResourceIdentifier, original *models.ProjectLock, mirror string) bool {
	other := enhanced.ProjectResource(original.Project, original.Workspace)
	if other == resource || other.LegacyKey() != resource.LegacyKey() {
		return false
	}
	record, err := decodeLockRecord(other.Namespace, c.sibling(other.Namespace).get(lockKey(other.Key())))
	return err == nil && record.Mirror == mirror
}

func hasCredential(lock *models.ProjectLock) bool {
	return !reflect.DeepEqual(enhanced.SanitizeProjectLock(*lock), *lock)
}

// contentFor makes stock's form of a lock from its record. What only stock's
// form had, such as the pull request's author, is lost.
func contentFor(resource enhanced.ResourceIdentifier, record *lockRecord) (*models.ProjectLock, error) {
	owner, err := enhanced.ParseOwner(record.Owner)
	if err != nil {
		return nil, err
	}
	content, err := enhanced.TransferProjectLock(models.ProjectLock{
		Project: resource.Project(), Workspace: resource.Workspace, Time: time.UnixMicro(record.Acquired),
	}, owner)
	return &content, err
}

// replaceContent writes another stock's form of the lock on a resource: as its
// copy in stock's bucket, or in the record.
func (s *repositoryStep) replaceContent(resource enhanced.ResourceIdentifier, content *models.ProjectLock, mirrored bool) error {
	record, err := decodeLockRecord(s.name, s.get(lockKey(resource.Key())))
	if err != nil {
		return fmt.Errorf("lock on %s: %w", resource, err)
	}
	payload, err := encodeProjectLock(*content)
	if err != nil {
		return err
	}
	record.Mirror, record.Lock = "", payload
	if mirrored {
		record.Mirror, record.Lock = checksum(payload), nil
		s.batch.dirty = true
		err = s.legacy.Put([]byte(resource.LegacyKey()), payload)
	}
	return errors.Join(err, s.putRecord(resource, record))
}

// rewriteCopy writes stock's copy of a lock again, without credentials.
func (s *repositoryStep) rewriteCopy(resource enhanced.ResourceIdentifier, original *models.ProjectLock) error {
	return s.replaceContent(resource, original, true)
}
