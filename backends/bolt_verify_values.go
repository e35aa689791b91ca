package backends

import (
	"fmt"
	"maps"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// checkValues checks what a lock says of itself alone. It counts as it is:
// nothing here keeps the lock from being used or released. Where the log tells
// what was there, a repair puts that back.
func (c *inspection) checkValues(key []byte, resource enhanced.ResourceIdentifier, record *lockRecord) {
	resourceKey := resource.Key()
	if p := record.Priority; p < enhanced.PriorityLow || p > enhanced.PriorityCritical {
		c.report(enhanced.RuleLockPriority, key, "the lock has %s, which there is not; nothing else says which it had", p).about(resourceKey)
	}
	c.checkAcquired(key, resource, record)
	c.checkMetadata(key, resource, record)
}

func (c *inspection) checkAcquired(key []byte, resource enhanced.ResourceIdentifier, record *lockRecord) {
	isBefore := func(acquired int64) bool {
		return acquired <= c.now() && (record.Expires == 0 || acquired < record.Expires)
	}
	if isBefore(record.Acquired) {
		return
	}
	resourceKey := resource.Key()
	p := c.report(enhanced.RuleLockTime, key, "the lock was acquired at %s, in the future or after the end of its lease", describeTime(record.Acquired)).about(resourceKey)
	logged, found := c.log.acquired[resourceKey]
	if _, same := c.lastWordOn(resourceKey, record); same && found && isBefore(logged) {
		p.writes().repairs("set that to "+describeTime(logged)+", as the log has it", func(s *repositoryStep, _ change) error {
			return s.editRecord(resource, func(r *lockRecord) { r.Acquired = logged })
		})
	}
}

func describeTime(micros int64) string { return time.UnixMicro(micros).UTC().Format(time.RFC3339Nano) }

func (c *inspection) checkMetadata(key []byte, resource enhanced.ResourceIdentifier, record *lockRecord) {
	if enhanced.ValidateMetadata(record.Metadata) == nil {
		return
	}
	// What is wrong there is not repeated: it would be in this text.
	p := c.report(enhanced.RuleLockMetadata, key, "the lock's metadata is none that a request can have: a key is empty, there is a control character, or it has more than %d bytes",
		enhanced.MaxMetadataBytes).about(resource.Key())
	word, found := c.lastWordOn(resource.Key(), record)
	if !found {
		return
	}
	// The log has the note.
	restored := maps.Clone(record.Metadata)
	delete(restored, enhanced.MetadataNote)
	if word.Note != "" {
		restored[enhanced.MetadataNote] = word.Note
	}
	if enhanced.ValidateMetadata(restored) == nil {
		p.writes().repairs("write the note again, as the log has it", func(s *repositoryStep, _ change) error {
			return s.editRecord(resource, func(r *lockRecord) { r.Metadata = restored })
		})
	}
}

// lastWordOn returns what the log last said of the same lock.
func (c *inspection) lastWordOn(resourceKey string, record *lockRecord) (*enhanced.LockSummary, bool) {
	word := c.log.words[resourceKey].after
	return word, word != nil && word.Token == record.Token
}

// editRecord changes the record of the lock on a resource.
func (s *repositoryStep) editRecord(resource enhanced.ResourceIdentifier, edit func(*lockRecord)) error {
	record, err := decodeLockRecord(s.name, s.get(lockKey(resource.Key())))
	if err != nil {
		return fmt.Errorf("lock on %s: %w", resource, err)
	}
	edit(record)
	return s.putRecord(resource, record)
}
