package backends

import (
	"bytes"
	"maps"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// A lock is mostly released by the process that took it, and often soon. Its record need
// not be read from its text again: the process has what it wrote. What is in the file
// counts still. Only where that is, byte for byte, what was written is the known record
// taken in its place, so that nothing has to be forgotten when a transaction is undone.

// maxGrants is how many locks are known in that way. All are forgotten when there would
// be more.
const maxGrants = 128

// grants are the locks of the latest grants, by resource. Only steps use them.
type grants map[enhanced.ResourceIdentifier]*granted

// granted is a lock as it was written.
type granted struct {
	data, copied []byte // the record, and stock's copy if there is one
	record       lockRecord
	original     models.ProjectLock
}

// note keeps a lock that has been written.
func (g grants) note(resource enhanced.ResourceIdentifier, lock *granted) {
	delete(g, resource)
	if !lock.isExact() {
		return
	}
	if len(g) >= maxGrants {
		clear(g)
	}
	// As they would be read.
	lock.record.Metadata, lock.original.User.Teams = cloneSome(lock.record.Metadata), cloneNames(lock.original.User.Teams)
	lock.original.Time = lock.original.Time.Round(0) // without Go's second clock
	g[resource] = lock
}

// isExact reports whether what was written reads as what it was made of: JSON
// replaces what is not UTF-8, and has no seconds in a time zone.
func (l *granted) isExact() bool {
	for _, text := range [][]byte{l.data, l.copied, l.record.Lock} {
		if bytes.ContainsRune(text, '\ufffd') || bytes.Contains(text, []byte(`\ufffd`)) {
			return false
		}
	}
	_, offset := l.original.Time.Zone()
	return offset%int(time.Minute/time.Second) == 0
}

// finding is what [entry.judge] finds of an entry; known is false where the lock was not
// granted lately, or the file has something else.
func (g grants) finding(e entry) (f finding, known bool) {
	lock := g[e.resource]
	if lock == nil || !bytes.Equal(e.data, lock.data) || lock.record.Mirror != "" && !bytes.Equal(e.copied, lock.copied) {
		return finding{}, false
	}
	record, original := lock.record, lock.original
	record.Metadata, original.User.Teams = maps.Clone(record.Metadata), slices.Clone(original.User.Teams)
	record.Lock = slices.Clone(record.Lock)
	f = finding{status: held, tag: e.tag, resource: e.resource, record: &record, original: &original}
	if record.Mirror != "" {
		f.legacyKey = e.resource.LegacyKey()
	}
	if record.expiredAt(e.now) {
		f.status = expired
	}
	return f, true
}

// cloneSome and cloneNames copy what is not empty, which is not written.
func cloneSome(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}

func cloneNames(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	return slices.Clone(names)
}
