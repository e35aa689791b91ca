package backends_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// sample is a store with every kind of entry, and the locks that are in it.
type sample struct {
	path                             string
	leased, plain, custom, frozen    *enhanced.EnhancedLock
	released, elsewhere, transferred *enhanced.EnhancedLock
	// given is the token that transferred had before.
	given int64
}

func (s *sample) locks() []*enhanced.EnhancedLock {
	return []*enhanced.EnhancedLock{s.leased, s.plain, s.custom, s.frozen, s.elsewhere, s.transferred}
}

func newSample(t *testing.T) *sample {
	t.Helper()
	s := &sample{path: filepath.Join(t.TempDir(), "atlantis.db")}
	db, err := bbolt.Open(s.path, 0o600, nil)
	require.NoError(t, err)
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	take := func(r *enhanced.EnhancedLockRequest) *enhanced.EnhancedLock {
		lock, err := b.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		return lock
	}
	leased := request(stockLock("org/app", 5, "leased"))
	leased.Timeout, leased.ID = time.Hour, "request-leased"
	s.leased = take(leased)
	s.plain = take(request(stockLock("org/app", 5, "plain")))
	s.custom = take(&enhanced.EnhancedLockRequest{
		Resource: enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: "org/app", Path: "db", Workspace: "w"},
		User:     models.User{Username: "alice"}, Timeout: time.Hour,
	})
	frozen := request(stockLock("org/app", 0, "frozen"))
	frozen.Pull, frozen.User.Username = nil, "alice"
	frozen.Metadata = map[string]string{enhanced.MetadataNote: "a note"}
	s.frozen = take(frozen)
	released := request(stockLock("org/app", 6, "released"))
	released.ID = "request-released"
	s.released = take(released)
	require.NoError(t, b.ReleaseLock(t.Context(), s.released.ID))
	s.elsewhere = take(request(stockLock("org/other", 5, "leased")))
	s.transferred = take(request(stockLock("org/other", 8, "moved")))
	s.given = s.transferred.Version
	require.NoError(t, b.TransferLock(t.Context(), s.transferred.ID, "user:bob"))
	s.transferred, err = b.LookupLock(t.Context(), s.transferred.Resource)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.NoError(t, db.Close())
	return s
}

// Keys as the layout has them, made by hand.

func num(n int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }

func lockEntry(l *enhanced.EnhancedLock) string { return "l" + l.Resource.Key() }
func idEntry(l *enhanced.EnhancedLock) string   { return "i" + num(l.Version) }
func logEntry(sequence int64) string            { return "a" + num(sequence) }
func pullEntry(l *enhanced.EnhancedLock, number string) string {
	return "op" + number + "/github.com\x00" + l.Resource.Key()
}
func deadlineEntry(l *enhanced.EnhancedLock) string {
	return "d" + num(l.ExpiresAt.UnixMicro()) + l.Resource.Key()
}

// editor changes a store with bbolt alone.
type editor struct {
	t  *testing.T
	tx *bbolt.Tx
	*sample
}

func (e *editor) root() *bbolt.Bucket { return e.tx.Bucket([]byte("enhanced")) }
func (e *editor) bucket(repository string) *bbolt.Bucket {
	return e.tx.Bucket([]byte(enhanced.RepositoryTag(repository)))
}
func (e *editor) app() *bbolt.Bucket   { return e.bucket("org/app") }
func (e *editor) stock() *bbolt.Bucket { return e.tx.Bucket([]byte("runLocks")) }

func (e *editor) get(b *bbolt.Bucket, key string) string {
	value := b.Get([]byte(key))
	require.NotNil(e.t, value, "%q", key)
	return string(value)
}

func (e *editor) put(b *bbolt.Bucket, key, value string) {
	require.NoError(e.t, b.Put([]byte(key), []byte(value)))
}

func (e *editor) remove(b *bbolt.Bucket, key string) {
	e.get(b, key)
	require.NoError(e.t, b.Delete([]byte(key)))
}

func (e *editor) move(b *bbolt.Bucket, from, to string) {
	e.put(b, to, e.get(b, from))
	e.remove(b, from)
}

// edit changes the JSON of a value.
func (e *editor) edit(b *bbolt.Bucket, key string, change func(fields map[string]any)) {
	fields := map[string]any{}
	decoder := json.NewDecoder(strings.NewReader(e.get(b, key)))
	decoder.UseNumber()
	require.NoError(e.t, decoder.Decode(&fields))
	change(fields)
	value, err := json.Marshal(fields)
	require.NoError(e.t, err)
	e.put(b, key, string(value))
}

// remember keeps the end of a lock until a time, as where the log has lost it.
func (e *editor) remember(l *enhanced.EnhancedLock, until time.Time) {
	e.put(e.app(), "f"+num(until.UnixMicro())+num(l.Version), string(mustJSON(map[string]string{
		"how": enhanced.EventReleased, "resource": l.Resource.Key(), "owner": l.Owner, "request": "request-of-it",
	})))
}

// copyOf puts a value in the place of stock's copy of a lock, as if the lock
// had been written with it.
func (e *editor) copyOf(l *enhanced.EnhancedLock, value string) {
	e.put(e.stock(), l.Resource.LegacyKey(), value)
	sum := sha256.Sum256([]byte(value))
	e.edit(e.bucket(l.Resource.Namespace), lockEntry(l), func(f map[string]any) { f["s"] = hex.EncodeToString(sum[:8]) })
}

func (e *editor) removePrefix(b *bbolt.Bucket, prefix string) {
	var keys [][]byte
	cursor := b.Cursor()
	for key, _ := cursor.Seek([]byte(prefix)); bytes.HasPrefix(key, []byte(prefix)); key, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(key))
	}
	require.NotEmpty(e.t, keys)
	for _, key := range keys {
		require.NoError(e.t, b.Delete(key))
	}
}

func itoa(n int64) string { return string(mustJSON(n)) }

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// plantIn damages the store in a file that nothing has open.
func (s *sample) plantIn(t *testing.T, path string, plant func(e *editor)) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		plant(&editor{t: t, tx: tx, sample: s})
		return nil
	}))
	require.NoError(t, db.Close())
}

// verifyFile verifies a file that is open read-only.
func verifyFile(t *testing.T, path string) []enhanced.Violation {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer db.Close()
	violations, err := backends.VerifyBolt(db)
	require.NoError(t, err)
	return violations
}

func rulesOf(violations []enhanced.Violation) []string {
	var rules []string
	for _, v := range violations {
		rules = append(rules, v.Rule)
	}
	slices.Sort(rules)
	return rules
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, content, 0o600))
}
