package backends

import (
	"context"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// Stock Atlantis can write to its own bucket behind our back: before this
// process opened the file, and through a boltdb.BoltDB on the same handle. A
// step on one resource looks at stock's bucket itself. What goes by index or
// over all locks first calls reconcile, which costs a scan after somebody else
// has written to the file and next to nothing otherwise.

// reconcile takes over what stock has locked and drops what it has released.
func (b *BoltBackend) reconcile(ctx context.Context) error {
	var behind []enhanced.ResourceIdentifier
	err := b.view(ctx, "compare with stock's locks", func(tx *bbolt.Tx) error {
		if b.isClean(tx.ID()) {
			return nil
		}
		var unreadable []string
		behind, unreadable = drift(tx, b.config.Load().PreserveLegacyFormat)
		if len(behind) == 0 {
			b.setClean(tx.ID(), unreadable)
		}
		return nil
	})
	if err != nil || len(behind) == 0 {
		return err
	}
	for len(behind) > 0 {
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
			return err
		}
	}
	// Learn what is unreadable; a lock that stock takes right now is for the
	// next scan.
	return b.view(ctx, "compare with stock's locks", func(tx *bbolt.Tx) error {
		if rest, unreadable := drift(tx, b.config.Load().PreserveLegacyFormat); len(rest) == 0 {
			b.setClean(tx.ID(), unreadable)
		}
		return nil
	})
}

// drift returns the resources on which stock's locks and ours differ, and the
// keys of stock's bucket that cannot be read.
func drift(tx *bbolt.Tx, preserve bool) (behind []enhanced.ResourceIdentifier, unreadableKeys []string) {
	agreed := make(map[string]struct{})
	eachRepository(tx, 0, func(r *repository) {
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
				behind = append(behind, resource)
				return
			}
			agreed[legacyKey] = struct{}{}
		})
	})
	legacy := tx.Bucket(legacyLocks())
	cursor := legacy.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		if _, ok := agreed[string(key)]; ok {
			continue
		}
		lock, err := decodeProjectLock(value)
		if err != nil {
			unreadableKeys = append(unreadableKeys, legacyName(string(key)))
			continue
		}
		resource := enhanced.ProjectResource(lock.Project, lock.Workspace)
		if k := string(key); k != resource.LegacyKey() && k != oldLegacyKey(resource) {
			unreadableKeys = append(unreadableKeys, legacyName(k))
			continue
		}
		r := (&repository{tx: tx, legacy: legacy, preserve: preserve}).sibling(resource.Namespace)
		switch f := r.inspect(resource); f.status {
		case heldByStock, releasedByStock:
			behind = append(behind, resource)
		case unreadable:
			unreadableKeys = append(unreadableKeys, legacyName(string(key)))
		default:
			// A second lock of stock's on a resource that is held already, under
			// the key from before v0.40. It is taken over when the first is gone.
		}
	}
	return behind, unreadableKeys
}

func (b *BoltBackend) isClean(txid int) bool {
	b.clean.Lock()
	defer b.clean.Unlock()
	return b.clean.txid == txid
}

func (b *BoltBackend) setClean(txid int, unreadable []string) {
	b.clean.Lock()
	defer b.clean.Unlock()
	if txid >= b.clean.txid {
		b.clean.txid, b.clean.unreadable = txid, unreadable
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

func (b *BoltBackend) unreadableLegacy() []string {
	b.clean.Lock()
	defer b.clean.Unlock()
	return b.clean.unreadable
}
