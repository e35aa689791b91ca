package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
)

// lost says what the target does not keep of a lock that it takes, "" for
// nothing. Stock Atlantis knows a project, a workspace, a pull request, a user and
// a time.
func (m *migration) lost(lock *backends.InventoryLock) string {
	if !m.to.url.stock || lock.ID == "" {
		return "" // what stock alone has recorded is all there
	}
	var parts []string
	if lock.OriginalLock.Pull.Num == 0 {
		parts = append(parts, "its owner "+enhanced.DescribeOwner(lock.Owner)+", who is no pull request")
	}
	for _, key := range slices.Sorted(maps.Keys(lock.Metadata)) {
		switch key {
		case enhanced.MetadataNote:
			parts = append(parts, "its note")
		case enhanced.MetadataCopiedFrom: // which is stock's own
		default:
			parts = append(parts, "its metadata "+strconv.Quote(key))
		}
	}
	if lock.Priority != enhanced.PriorityNormal {
		parts = append(parts, "its priority "+lock.Priority.String())
	}
	if len(parts) == 0 {
		return ""
	}
	last := len(parts) - 1
	list := strings.Join(slices.Concat(parts[:last:last], []string{"and " + parts[last]}), ", ")
	if last == 0 {
		list = parts[0]
	}
	return "stock Atlantis' locks don't keep " + list
}
