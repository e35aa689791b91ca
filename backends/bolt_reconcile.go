package backends

import (
	"bytes"
	"context"
	"sync"

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
// one repository, or in all of them when only is empty. It returns the
// differences that stay.
func (b *BoltBackend) reconcile(ctx context.Context, only string) (difference, error) {
	d, err := b.compare(ctx, only)
	if err != nil || len(d.behind) == 0 {
		return d, err
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
			return difference{}, err
		}
	}
	// A lock that stock takes right now is for the next scan.
	return b.compare(ctx, only)
}

// compare looks for differences, and notes when there are none.
func (b *BoltBackend) compare(ctx context.Context, only string) (d difference, err error) {
	err = b.viewNow(ctx, "compare with stock's locks", func(tx *bbolt.Tx, now int64) error {
		var clean bool
		if d, clean = b.known(tx, now, only); clean {
			return nil
		}
		d = drift(tx, now, b.config.Load().PreserveLegacyFormat, only)
		if len(d.behind) == 0 {
			b.clean.set(tx.ID(), only, d)
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
			record, err := decodeLockRecord(r.name, data)
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
func (b *BoltBackend) known(tx *bbolt.Tx, now int64, only string) (difference, bool) {
	d, clean := b.clean.get(tx.ID(), only)
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

// cleanState is where stock's locks are known to agree with ours.
type cleanState struct {
	mu sync.Mutex // protects all below
	// txid is the newest transaction up to which they do: only our own commits
	// keep them so.
	txid int
	// found is what was found beside then, by the repository that was looked
	// at, "" for all.
	found map[string]difference
}

func (s *cleanState) get(txid int, only string) (difference, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, clean := s.found[""]
	if !clean {
		d, clean = s.found[only]
	}
	return d, clean && s.txid == txid
}

func (s *cleanState) set(txid int, only string, found difference) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if txid < s.txid {
		return
	}
	if txid > s.txid || s.found == nil {
		s.txid, s.found = txid, make(map[string]difference)
	}
	s.found[only] = found
}

// extend keeps the store clean over our own commit: bbolt numbers its write
// transactions without gaps.
func (s *cleanState) extend(txid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.txid == txid-1 {
		s.txid = txid
	}
}

// forget has the next look compare with stock's locks again.
func (s *cleanState) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = nil
}
