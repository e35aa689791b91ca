package backends

import (
	"bytes"
	"errors"
	"fmt"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// checkLock checks a lock record and what has to lead to it.
func (c *inspection) checkLock(key, data []byte) {
	resourceKey := string(key[1:])
	record, err := decodeLockRecord(c.name, data)
	if err != nil {
		c.setAside(enhanced.RuleLockUnreadable, key, "the record can't be read; its resource counts as held")
		return
	}
	if home := c.home(resourceKey, record); home != resourceKey && c.moved[home] == nil {
		c.checkMoved(key, home, record)
		return
	}
	resource, err := enhanced.ParseResourceKey(c.name, resourceKey)
	if err != nil {
		c.setAside(enhanced.RuleLockKey, key, "no resource has this key: nothing can name the lock, and it keeps nobody out")
		return
	}
	if !isNameable(resource) {
		c.report(enhanced.RuleLockKey, key, "no request can name %s; release it by its ID %s",
			resource, enhanced.FormatLockIDByTag(c.tag, record.Token)).about(resourceKey)
	}
	if record.Mirror != "" {
		c.claimed[resource.LegacyKey()] = struct{}{}
	}
	c.seen[resourceKey] = &lockRecord{Token: record.Token, Owner: record.Owner, Expires: record.Expires, Request: record.Request}
	c.checkContent(key, resource, record)
	c.checkID(key, resource, record)
	c.checkDeadline(key, resourceKey, record)
	c.checkValues(key, resource, record)
	c.checkLastWord(key, resourceKey, record)
	c.use(record.Token)
}

// isNameable reports whether a request can come to the resource.
func isNameable(resource enhanced.ResourceIdentifier) bool {
	ofKnownType := enhanced.ResourceIdentifier{Type: resource.Type}.Validate() == nil
	return ofKnownType && resource.Normalized() == resource
}

// setAside reports a lock record that goes to quarantine together with what
// leads to it.
func (c *inspection) setAside(rule string, key []byte, detail string) {
	leading := new([][]byte)
	c.unreadable[string(key[1:])] = leading
	key = bytes.Clone(key)
	where := c.where(key)
	c.report(rule, key, "%s", detail).about(string(key[1:])).
		quarantines(where, " and remove what leads to it; the resource is free then, or what stock Atlantis has there counts",
			func(s *repositoryStep, _ change) error {
				errs := []error{s.quarantine(where, s.get(key)), s.delete(key)}
				for _, entry := range *leading {
					errs = append(errs, s.delete(entry))
				}
				return errors.Join(errs...)
			})
}

// home returns the key of the resource that a lock is on. It is another one
// than the record's where the lock's ID leads to a resource that has no record, and
// stock's form of the lock is of that one: then the record's key is what is damaged.
func (c *inspection) home(resourceKey string, record *lockRecord) string {
	leads := string(c.get(idKey(record.Token)))
	if leads == resourceKey || c.get(lockKey(leads)) != nil {
		return resourceKey
	}
	resource, err := enhanced.ParseResourceKey(c.name, leads)
	if err != nil || !c.isContentOf(resource, record) {
		return resourceKey
	}
	return leads
}

// isContentOf reports whether stock's form of a lock is of a resource.
func (c *inspection) isContentOf(resource enhanced.ResourceIdentifier, record *lockRecord) bool {
	content := []byte(record.Lock)
	if record.Mirror != "" {
		if content = c.stock(resource.LegacyKey()); content == nil || checksum(content) != record.Mirror {
			return false
		}
	}
	original, err := decodeProjectLock(content)
	return err == nil && isOf(original, resource, record.Owner)
}

// checkMoved reports a lock that is stored under another key than its own.
func (c *inspection) checkMoved(key []byte, home string, record *lockRecord) {
	c.moved[home] = record
	c.use(record.Token)
	resource, err := enhanced.ParseResourceKey(c.name, home)
	if err == nil && record.Mirror != "" {
		c.claimed[resource.LegacyKey()] = struct{}{}
	}
	key = bytes.Clone(key)
	c.report(enhanced.RuleLockKey, key, "its ID and its content say that it is the lock on %s", resource).about(home).writes().
		repairs("move it to the key of that resource", func(s *repositoryStep, _ change) error {
			return errors.Join(s.put(lockKey(home), bytes.Clone(s.get(key))), s.delete(key))
		})
	c.checkLastWord(key, home, record)
}

// checkID checks that a lock has a token of its own, whose ID leads to it.
func (c *inspection) checkID(key []byte, resource enhanced.ResourceIdentifier, record *lockRecord) {
	resourceKey, token := resource.Key(), record.Token
	renew := func(s *repositoryStep, _ change) error { return s.renewToken(resource) }
	if c.isOfFuture(token) {
		c.report(enhanced.RuleLockToken, key, "the lock's token %d is of the future; nobody has got it", token).
			about(resourceKey).writes().repairs("give the lock a new token, and with it a new ID", renew)
		return
	}
	leads := string(c.get(idKey(token)))
	if leads == resourceKey {
		return
	}
	_, taken := c.reclaimed[token]
	if other := c.recordAt(leads); taken || other != nil && other.Token == token {
		c.report(enhanced.RuleLockToken, key, "the lock's token %d is another lock's, too", token).
			about(resourceKey).writes().repairs("give this lock a new token, and with it a new ID", renew)
		return
	}
	c.reclaimed[token] = reclaimedLock{resourceKey, record}
	c.report(enhanced.RuleIDMissing, key, "the lock's ID does not lead to it").about(resourceKey).writes().
		repairs("write the ID", func(s *repositoryStep, _ change) error { return s.put(idKey(token), []byte(resourceKey)) })
}

// renewToken gives the lock on a resource a new token.
func (s *repositoryStep) renewToken(resource enhanced.ResourceIdentifier) error {
	key := resource.Key()
	record, err := decodeLockRecord(s.name, s.get(lockKey(key)))
	if err != nil {
		return fmt.Errorf("lock on %s: %w", resource, err)
	}
	record.Token = s.batch.nextToken()
	return errors.Join(s.put(idKey(record.Token), []byte(key)), s.putRecord(resource, record))
}

func (c *inspection) checkDeadline(key []byte, resourceKey string, record *lockRecord) {
	at := record.Expires
	if at == 0 || c.get(deadlineKey(at, resourceKey)) != nil {
		return
	}
	c.report(enhanced.RuleDeadlineMissing, key, "no deadline entry leads to the lock: its lease would end late").
		about(resourceKey).writes().
		repairs("write the deadline entry", func(s *repositoryStep, _ change) error { return s.put(deadlineKey(at, resourceKey), present()) })
}
