package backends

import (
	"bytes"
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// checkEntry checks an entry that is no lock and no log record: what it leads
// to has to be there.
func (c *inspection) checkEntry(key, value []byte) {
	if isOfOldFormat(c.store.format, key, value) {
		return
	}
	switch key[0] {
	case rangeLock:
	case rangeClosing:
		c.checkClosingEntry(key, value)
	case rangeDeadline:
		c.checkDeadlineEntry(key)
	case rangeForget:
		c.checkForgetEntry(key, value)
	case rangeID:
		c.checkIDEntry(key, value)
	case rangeQueue:
		c.checkQueueEntry(key, value)
	case rangeWaits:
		c.checkWaitsEntry(key, value)
	case rangeWaiter:
		c.checkWaiterEntry(key, value)
	case rangeReserved:
		c.checkReservedEntry(key, value)
	case rangeReserves:
		c.checkReservesEntry(key)
	case rangeLastTry:
		c.checkLastTryEntry(key, value)
	case rangeTombstone:
		c.checkTombstoneEntry(key, value)
	case rangeReleased:
		c.checkReleasedEntry(key, value)
	case rangeLog:
		if len(key) != 9 {
			c.checkUnknown(key)
		}
	default:
		if !bytes.Equal(key, nameKey()) && !bytes.Equal(key, checkpointKey()) && !bytes.Equal(key, agingKey()) {
			c.checkUnknown(key)
		}
	}
}

// checkClosingEntry checks the mark of a pull request whose locks are being
// released. One of the future would keep it from taking locks until then.
func (c *inspection) checkClosingEntry(key, value []byte) {
	owner, err := enhanced.ParseOwner(string(key[1:]))
	if err != nil || len(value) != 8 {
		c.checkUnknown(key)
		return
	}
	if since := number(value); since <= 0 || since > c.now() {
		c.report(enhanced.RuleClosing, key, "%s is marked as being closed since a time that has not come", owner).quarantinesEntry(c, key)
	}
}

// checkUnknown reports an entry that the format does not have.
func (c *inspection) checkUnknown(key []byte) {
	c.report(enhanced.RuleUnknownEntry, key, "the store's format has no such entry").quarantinesEntry(c, key)
}

// leadsToUnreadable reports whether a resource's lock can't be read. The entry
// that leads there goes with it.
func (c *inspection) leadsToUnreadable(resourceKey string, entry []byte) bool {
	leading, found := c.unreadable[resourceKey]
	if found {
		*leading = append(*leading, bytes.Clone(entry))
	}
	return found
}

func (c *inspection) checkDeadlineEntry(key []byte) {
	at, resourceKey, ok := splitDeadlineKey(key)
	if ok && c.leadsToUnreadable(resourceKey, key) {
		return
	}
	if record := c.recordAt(resourceKey); !ok || record == nil || record.Expires != at {
		c.report(enhanced.RuleDeadlineStray, key, "no lease ends then").about(resourceKey).removes(key)
	}
}

func (c *inspection) checkIDEntry(key, value []byte) {
	if len(key) != 9 {
		c.checkUnknown(key)
		return
	}
	token := number(key[1:])
	if _, ok := c.reclaimed[token]; ok {
		return // its lock's repair writes it
	}
	resourceKey := string(value)
	if c.leadsToUnreadable(resourceKey, key) {
		return
	}
	if record := c.recordAt(resourceKey); record == nil || record.Token != token {
		c.report(enhanced.RuleIDStray, key, "it leads to no lock with this token, and says of none how it ended").about(resourceKey).removes(key)
	}
}

// checkForgetEntry checks what is remembered of an ended lock.
func (c *inspection) checkForgetEntry(key, value []byte) {
	at, token, ok := splitForgetKey(key)
	if !ok {
		c.checkUnknown(key)
		return
	}
	var e ending
	if err := decode(value, &e); err != nil || !e.isSound(c.name) {
		c.report(enhanced.RuleEnding, key, "how the lock ended can't be read").quarantinesEntry(c, key)
		return
	}
	c.use(token)
	if _, held := c.reclaimed[token]; held || c.heldUnder(token) != "" {
		c.report(enhanced.RuleForgetStray, key, "the lock is held").about(e.Resource).removes(key)
		return
	}
	if latest := c.now() + memoryTime.Microseconds(); at < 0 || at > latest {
		key, value = bytes.Clone(key), bytes.Clone(value)
		c.report(enhanced.RuleForgetLate, key, "the lock is to be forgotten later than %s after its end", memoryTime).
			about(e.Resource).writes().
			repairs("have it forgotten in "+memoryTime.String(), func(s *repositoryStep, _ change) error {
				return errors.Join(s.delete(key), s.put(forgetKey(s.now+memoryTime.Microseconds(), token), value))
			})
	}
}
