package backends

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// repository is one repository in one transaction, at one time. It reads; a
// [repositoryStep] also writes.
type repository struct {
	tag      string
	name     string
	now      int64
	tx       *bbolt.Tx
	bucket   *bbolt.Bucket // nil before the first use
	legacy   *bbolt.Bucket // stock Atlantis' locks
	preserve bool
	// known is what a step knows of the bucket, nil for those that only read.
	known *memory
	// grants are the latest ones, nil for those that only read.
	grants grants
	// lookups and stockLookups are cursors that look for single keys of the two buckets,
	// once they are needed.
	lookups, stockLookups *bbolt.Cursor
	// key is that of keyed, once that is needed.
	key   string
	keyed enhanced.ResourceIdentifier
}

// cursor returns a cursor for one look into the bucket, which has to be there. The
// next caller gets the same one.
func (r *repository) cursor() *bbolt.Cursor {
	if r.lookups == nil {
		r.lookups = r.bucket.Cursor()
	}
	return r.lookups
}

// finding is what is stored of a resource.
type finding struct {
	status findingStatus
	// resource is the one that is held: another one than was asked for when
	// both have the same legacy key. tag is its repository's.
	resource enhanced.ResourceIdentifier
	tag      string
	// record is ours, nil when only stock's is there.
	record *lockRecord
	// original is stock's form of the lock, at legacyKey if stock can see it.
	original  *models.ProjectLock
	legacyKey string
	// name is where an unreadable record is.
	name string
}

type findingStatus int

const (
	// free: nothing is stored.
	free findingStatus = iota
	// held: our record stands.
	held
	// heldByStock: stock took the lock, we have no record of it yet.
	heldByStock
	// heldElsewhere: a resource of another repository with the same legacy key
	// is held. In stock's eyes they are one.
	heldElsewhere
	// expiredElsewhere: as heldElsewhere, and the lease has run out.
	expiredElsewhere
	// releasedByStock: our record is there, but stock has removed or replaced
	// its own form of the lock.
	releasedByStock
	// expired: our record is there, and its lease has run out.
	expired
	// reserved: nothing is held, and the resource is kept for a pull request that
	// plans again, or for who has let its lease end. record is what that held.
	reserved
	// reservationOver: as reserved, and the time for that has run out.
	reservationOver
	// unreadable: something is stored that cannot be read. It counts as held.
	unreadable
)

func (r *repository) get(key []byte) []byte {
	switch {
	case r.bucket == nil || len(key) > 0 && r.isVacant(key[0]):
		return nil
	case len(key) > 0 && key[0] == rangeLog:
		return r.homeOf(key).Get(key)
	default:
		return r.lookUp(key)
	}
}

// inspect finds out what is stored of a resource, without changing anything.
func (r *repository) inspect(resource enhanced.ResourceIdentifier) finding {
	if data := r.get(lockKey(r.keyOf(resource))); data != nil {
		return r.inspectRecord(resource, data)
	}
	f := finding{status: free, resource: resource}
	if resource.Type == enhanced.ResourceTypeProject {
		f = r.inspectLegacy(resource)
	}
	if f.status == free {
		f = r.inspectReservation(resource)
	}
	return f
}

// inspectRecord judges our record of a resource.
func (r *repository) inspectRecord(resource enhanced.ResourceIdentifier, data []byte) finding {
	e := r.entry(resource, data)
	if f, known := r.grants.finding(e); known {
		return f
	}
	return e.judge()
}

// entry is a lock record with stock's copy beside it, as they are in the file.
type entry struct {
	tag      string
	now      int64
	resource enhanced.ResourceIdentifier
	data     []byte
	copied   []byte // nil for none
}

func (r *repository) entry(resource enhanced.ResourceIdentifier, data []byte) entry {
	e := entry{tag: r.tag, now: r.now, resource: resource, data: data}
	if resource.Type == enhanced.ResourceTypeProject {
		e.copied = r.lookUpStock(resource.LegacyKey())
	}
	return e
}

// judge reads an entry. It does not use the transaction, so that entries can
// be judged side by side.
func (e entry) judge() finding {
	record, err := decodeLockRecord(e.resource.Namespace, e.data)
	if err != nil {
		return finding{status: unreadable, resource: e.resource, name: recordName(e.tag, e.resource.Key())}
	}
	f := finding{status: held, tag: e.tag, resource: e.resource, record: record}
	payload := []byte(record.Lock)
	if record.Mirror != "" {
		f.legacyKey = e.resource.LegacyKey()
		payload = e.copied
		if payload == nil || checksum(payload) != record.Mirror {
			f.status = releasedByStock
			return f
		}
	}
	if record.expiredAt(e.now) {
		f.status = expired
	}
	f.original, err = decodeProjectLock(payload)
	if err != nil && f.status == held {
		f.status, f.name = unreadable, recordName(e.tag, e.resource.Key())
	}
	return f
}

// inspectLegacy looks for a resource in stock's bucket: under its key, and
// under the key that stock used before v0.40, which had no project name and
// which stock does not migrate when the path is nested.
func (r *repository) inspectLegacy(resource enhanced.ResourceIdentifier) finding {
	key := resource.LegacyKey()
	if value := r.lookUpStock(key); value != nil {
		return r.inspectLegacyValue(resource, key, value)
	}
	oldKey := key[:len(key)-len(resource.Name)-1]
	value := r.lookUpStock(oldKey)
	if value == nil {
		return finding{status: free, resource: resource}
	}
	lock, err := decodeProjectLock(value)
	if err != nil {
		// A key that also reads as a present one harms only that resource.
		if _, parseErr := locking.IsCurrentLocking(oldKey); parseErr == nil {
			return finding{status: free, resource: resource}
		}
		return finding{status: unreadable, resource: resource, name: legacyName(oldKey)}
	}
	if enhanced.ProjectResource(lock.Project, lock.Workspace) != resource || models.GenerateLockKey(lock.Project, lock.Workspace) == oldKey {
		return finding{status: free, resource: resource}
	}
	return finding{status: heldByStock, resource: resource, original: lock, legacyKey: oldKey}
}

func oldLegacyKey(resource enhanced.ResourceIdentifier) string {
	return resource.Namespace + "/" + resource.Path + "/" + resource.Workspace
}

func (r *repository) inspectLegacyValue(resource enhanced.ResourceIdentifier, key string, value []byte) finding {
	lock, err := decodeProjectLock(value)
	if err != nil {
		return finding{status: unreadable, resource: resource, name: legacyName(key)}
	}
	other := enhanced.ProjectResource(lock.Project, lock.Workspace)
	if other == resource {
		return finding{status: heldByStock, resource: resource, original: lock, legacyKey: key}
	}
	if other.LegacyKey() != key {
		// The record lies about what it locks; stock goes by the key alone.
		return finding{status: unreadable, resource: resource, name: legacyName(key)}
	}
	f := r.sibling(other.Namespace).inspect(other)
	switch f.status {
	case expired:
		f.status = expiredElsewhere
	case unreadable:
		f.resource = resource
	case releasedByStock:
		// Stock has locked it again since: the value at hand is that lock.
		f = finding{status: heldElsewhere, resource: other, original: lock, legacyKey: key}
	default:
		f.status = heldElsewhere
	}
	return f
}

// sibling returns another repository in the same transaction.
func (r *repository) sibling(name string) *repository {
	other := *r
	other.name, other.tag = name, enhanced.RepositoryTag(name)
	other.bucket = repositoryBucket(r.tx, other.tag)
	other.known, other.lookups, other.grants = nil, nil, nil
	return &other
}

// lock returns the lock of a finding that is held. A lock that only stock has
// recorded has no ID and no token yet.
func (f *finding) lock() *enhanced.EnhancedLock {
	if f.record != nil {
		lock := newLock(f.tag, f.resource, f.record, f.original)
		if f.status == reserved {
			lock.ID, lock.State = "", enhanced.LockStatePending
		}
		return lock
	}
	original := enhanced.SanitizeProjectLock(*f.original)
	lock := newLock(f.tag, f.resource, &lockRecord{
		Owner:    enhanced.ProjectLockOwner(original).String(),
		Priority: enhanced.PriorityNormal,
		Acquired: original.Time.UnixMicro(),
	}, &original)
	lock.ID = ""
	return lock
}

// owner returns the holder, the zero Owner if there is none.
func (f *finding) owner() enhanced.Owner {
	if f.record != nil {
		owner, err := enhanced.ParseOwner(f.record.Owner)
		if err != nil {
			return enhanced.Owner{}
		}
		return owner
	}
	if f.original != nil {
		return enhanced.ProjectLockOwner(*f.original)
	}
	return enhanced.Owner{}
}

// keysUntilNow returns up to limit keys of a range that is ordered by time,
// whose time has come.
func (r *repository) keysUntilNow(letter byte, limit int) (keys [][]byte) {
	if r.bucket == nil {
		return nil
	}
	cursor := r.bucket.Cursor()
	for key, _ := cursor.Seek([]byte{letter}); len(key) >= 9 && key[0] == letter && len(keys) < limit; key, _ = cursor.Next() {
		if number(key[1:9]) > r.now {
			break
		}
		keys = append(keys, bytes.Clone(key))
	}
	return keys
}

// nextDeadline returns when the repository's next lease, claim or reservation ends.
func (r *repository) nextDeadline() (at int64, found bool) {
	key, _ := r.bucket.Cursor().Seek([]byte{rangeDeadline})
	at, _, ok := splitDeadlineKey(key)
	if end, found := r.nextReservationEnd(); found && (!ok || end < at) {
		return end, true
	}
	return at, ok
}

// locks calls fn for each of the repository's lock records. An error says that
// the record's key can't be read.
func (r *repository) locks(fn func(resource enhanced.ResourceIdentifier, data []byte, err error)) {
	cursor := r.bucket.Cursor()
	for key, data := cursor.Seek([]byte{rangeLock}); len(key) > 0 && key[0] == rangeLock; key, data = cursor.Next() {
		resource, err := enhanced.ParseResourceKey(r.name, string(key[1:]))
		if err != nil {
			err = fmt.Errorf("record %q: %w", recordName(r.tag, string(key[1:])), err)
		}
		fn(resource, data, err)
	}
}

// repositoryBucket returns the bucket of a repository, nil for none. The formats before
// have it in the store's own bucket.
func repositoryBucket(tx *bbolt.Tx, tag string) *bbolt.Bucket {
	if bucket := tx.Bucket([]byte(tag)); bucket != nil {
		return bucket
	}
	root := tx.Bucket(rootBucket())
	if root == nil || string(root.Get(formatKey())) == formatVersion {
		return nil
	}
	return root.Bucket([]byte(tag))
}

// eachRepository calls fn for every repository in the store.
func eachRepository(tx *bbolt.Tx, now int64, fn func(r *repository)) {
	visit := func(tag []byte, bucket *bbolt.Bucket) {
		if bucket == nil {
			return
		}
		fn(&repository{
			tag:    string(tag),
			name:   string(bucket.Get(nameKey())),
			now:    now,
			tx:     tx,
			bucket: bucket,
			legacy: tx.Bucket(legacyLocks()),
		})
	}
	cursor := tx.Cursor()
	for name, _ := cursor.First(); name != nil; name, _ = cursor.Next() {
		if isTag(name) {
			visit(name, tx.Bucket(name))
		}
	}
	for _, tag := range oldRepositories(tx) {
		visit(tag, tx.Bucket(rootBucket()).Bucket(tag))
	}
}

// oldRepositories returns the tags of the repositories that are where the formats
// before have them: in the store's own bucket.
func oldRepositories(tx *bbolt.Tx) (tags [][]byte) {
	root := tx.Bucket(rootBucket())
	if root == nil || string(root.Get(formatKey())) == formatVersion {
		return nil
	}
	cursor := root.Cursor()
	for tag, value := cursor.First(); tag != nil; tag, value = cursor.Next() {
		if value == nil && root.Bucket(tag) != nil {
			tags = append(tags, bytes.Clone(tag))
		}
	}
	return tags
}

// recordName and legacyName name records for people.
func recordName(tag, resourceKey string) string {
	return fmt.Sprintf("%s/%s/%c%s", rootBucket(), tag, rangeLock, resourceKey)
}

func legacyName(key string) string {
	return fmt.Sprintf("%s/%s", legacyLocks(), key)
}

// encode writes a record. What people typed is kept as well as JSON can: like
// the first version of Go's package, it replaces invalid UTF-8.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	return data, nil
}

func decode(data []byte, v any) error {
	if data == nil {
		return nil
	}
	return json.Unmarshal(data, v)
}
