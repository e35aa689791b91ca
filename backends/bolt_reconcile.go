package backends

import (
	"bytes"
	"context"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// Stock Atlantis can write to its own bucket behind our back: before this
// process opened the file, and through a boltdb.BoltDB on the same handle. A
// step on one resource looks at stock's bucket itself. What goes by index or
// over many locks first calls reconcile, which costs a scan after somebody else
// has written to the file and next to nothing otherwise.

// difference is how stock's locks and ours differ.
type difference struct {
	// behind are the resources that a step has to look at.
	behind []enhanced.ResourceIdentifier
	// rivals are stock's records on resources that are held otherwise.
	rivals []rival
	// unreadable are the keys of stock's bucket that can't be read.
	unreadable []string
}

// reconcile takes over what stock has locked and drops what it has released, in
// one repository, or in all of them when only is empty. It returns the rivals
// that stay.
func (b *BoltBackend) reconcile(ctx context.Context, only string) ([]rival, error) {
	d, err := b.compare(ctx, only)
	if err != nil || len(d.behind) == 0 {
		return d.rivals, err
	}
	for behind := d.behind; len(behind) > 0; {
		page := behind[:min(len(behind), maxStep)]
		behind = behind[len(page):]
		err := b.committer.do(ctx, "take over stock's locks", func(batch *batch) error {
			for _, resource := range page {
				if _, _, err := b.repositoryStep(batch, resource.Namespace).settle(resource); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	// A lock that stock takes right now is for the next scan.
	d, err = b.compare(ctx, only)
	return d.rivals, err
}

// compare looks for differences, and notes when there are none.
func (b *BoltBackend) compare(ctx context.Context, only string) (d difference, err error) {
	err = b.viewNow(ctx, "compare with stock's locks", func(tx *bbolt.Tx, now int64) error {
		var clean bool
		if d, clean = b.known(tx, now); clean {
			return nil
		}
		d = drift(tx, now, b.config.Load().PreserveLegacyFormat, only)
		if only == "" && len(d.behind) == 0 {
			b.setClean(tx.ID(), d)
		}
		return nil
	})
	return d, err
}

// drift compares stock's locks with ours: those of one repository, or all of
// them when only is empty.
func drift(tx *bbolt.Tx, now int64, preserve bool, only string) (d difference) {
	agreed := make(map[string]struct{})
	examine := func(r *repository) {
		r.preserve = preserve
		r.locks(func(resource enhanced.ResourceIdentifier, data []byte, err error) {
			if err != nil {
				return
			}
			record, err := decodeLockRecord(data)
			if err != nil || record.Mirror == "" {
				return
			}
			legacyKey := resource.LegacyKey()
			value := r.legacy.Get([]byte(legacyKey))
			if value == nil || checksum(value) != record.Mirror {
				d.behind = append(d.behind, resource)
				return
			}
			agreed[legacyKey] = struct{}{}
		})
	}
	any := &repository{tx: tx, now: now, legacy: tx.Bucket(legacyLocks()), preserve: preserve}
	var prefix []byte
	if only == "" {
		eachRepository(tx, now, examine)
	} else {
		prefix = []byte(only + "/")
		if r := any.sibling(only); r.bucket != nil {
			examine(r)
		}
	}
	cursor := any.legacy.Cursor()
	for key, value := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		if _, ok := agreed[string(key)]; !ok {
			d.add(any, only, string(key), value)
		}
	}
	return d
}

// add judges a record of stock's that no lock of ours has as its copy. Records
// of other repositories than only can have a key that starts like one of its.
func (d *difference) add(any *repository, only, key string, value []byte) {
	lock, err := decodeProjectLock(value)
	if err != nil {
		d.unreadable = append(d.unreadable, legacyName(key))
		return
	}
	resource := enhanced.ProjectResource(lock.Project, lock.Workspace)
	if only != "" && resource.Namespace != only {
		return
	}
	if key != resource.LegacyKey() && key != oldLegacyKey(resource) {
		d.unreadable = append(d.unreadable, legacyName(key))
		return
	}
	r := any.sibling(resource.Namespace)
	switch f := r.inspect(resource); f.status {
	case heldByStock, releasedByStock, expired, expiredElsewhere:
		d.behind = append(d.behind, resource)
	case held, heldElsewhere:
		d.rivals = append(d.rivals, rival{key, resource, enhanced.ProjectLockOwner(*lock)})
		if f.record == nil || r.isUnnoted(&f) {
			d.behind = append(d.behind, resource)
		}
	case unreadable:
		d.unreadable = append(d.unreadable, legacyName(key))
	case free:
		// Another lock's present key reads as this one's old one: nothing is
		// held here.
	}
}

// known returns the differences without looking for them, if only our own
// commits have followed since there were none: what time has brought about.
func (b *BoltBackend) known(tx *bbolt.Tx, now int64) (d difference, clean bool) {
	b.clean.Lock()
	d, clean = b.clean.found, b.clean.txid == tx.ID()
	b.clean.Unlock()
	if !clean {
		return difference{}, false
	}
	for _, rival := range d.rivals {
		if b.repository(tx, rival.resource.Namespace, now).isOverdue(rival) {
			d.behind = append(d.behind, rival.resource)
		}
	}
	return d, true
}

func (b *BoltBackend) setClean(txid int, found difference) {
	b.clean.Lock()
	defer b.clean.Unlock()
	if txid >= b.clean.txid {
		b.clean.txid, b.clean.found = txid, found
	}
}

// extendClean keeps the store clean over our own commit: bbolt numbers its
// write transactions without gaps.
func (b *BoltBackend) extendClean(txid int) {
	b.clean.Lock()
	defer b.clean.Unlock()
	if b.clean.txid == txid-1 {
		b.clean.txid = txid
	}
}

// forgetClean has the next look at all locks compare with stock's again.
func (b *BoltBackend) forgetClean() {
	b.clean.Lock()
	defer b.clean.Unlock()
	b.clean.txid = 0
}

func (b *BoltBackend) unreadableLegacy() []string {
	b.clean.Lock()
	defer b.clean.Unlock()
	return b.clean.found.unreadable
}
