package backends_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// age makes the file what the format before this one has in it.
func (e *editor) age() {
	for _, l := range []*enhanced.EnhancedLock{e.leased, e.released} {
		token := l.Version
		request := "request-" + l.OriginalLock.Project.Path
		e.put(e.app(), "r"+request, num(token))
	}
	e.put(e.app(), idEntry(e.released), string(mustJSON(map[string]string{
		"how": enhanced.EventReleased, "resource": e.released.Resource.Key(), "owner": e.released.Owner, "request": "request-released",
	})))
	e.put(e.app(), "f"+num(time.Now().Add(5*time.Minute).UnixMicro())+num(e.released.Version), "\x01")
	// Of none.
	e.put(e.app(), "f"+num(5)+num(17), "\x01")
	e.put(e.app(), "rnone", num(17))
	for _, l := range e.locks() {
		e.edit(e.bucket(l.Resource.Namespace), lockEntry(l), func(f map[string]any) {
			f["o"], f["a"] = l.Owner, l.AcquiredAt.UnixMicro()
			lengthenRequest(f, "u")
			delete(f, "h")
			delete(f, "w")
		})
	}
	for _, repository := range []string{"org/app", "org/other"} {
		e.ageLog(repository, e.root().Bucket([]byte(enhanced.RepositoryTag(repository))))
	}
	e.put(e.root(), "format", "1")
}

// lengthenRequest writes a request ID as it was, not in its short form.
func lengthenRequest(f map[string]any, short string) {
	text, found := f[short].(string)
	if !found {
		return
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	f["q"] = uuid.UUID(raw).String()
	delete(f, short)
}

// ageLog makes the log what it was: the last range, its records had no short forms,
// and did not say which requests ended.
func (e *editor) ageLog(name string, repository *bbolt.Bucket) {
	for sequence := int64(1); repository.Get([]byte(logEntry(sequence))) != nil; sequence++ {
		e.edit(repository, logEntry(sequence), func(f map[string]any) {
			delete(f, "i")
			lengthenRequest(f, "s")
			if f["c"] == nil {
				f["c"] = enhanced.CauseRequest
			}
			if past, found := f["k"].(json.Number); found {
				p, err := past.Int64()
				require.NoError(e.t, err)
				at, err := f["t"].(json.Number).Int64()
				require.NoError(e.t, err)
				f["n"] = itoa(at + p)
				delete(f, "k")
			}
			if after, found := f["z"].(map[string]any); found && after["h"] != nil {
				host, number, _ := strings.Cut(after["h"].(string), "/")
				after["o"] = "pr:" + host + "/" + url.PathEscape(name) + "/" + number
				delete(after, "h")
			}
		})
		e.put(repository, "z"+num(sequence), e.get(repository, logEntry(sequence)))
		e.remove(repository, logEntry(sequence))
	}
}

func TestAFileOfTheFormatBeforeIsConverted(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, (*editor).age)
	require.Empty(t, verifyFile(t, sample.path))
	db, err := bbolt.Open(sample.path, 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	inventory, err := backends.ReadBoltInventory(db)
	require.NoError(t, err)
	require.Len(t, inventory.Locks, len(sample.locks()))
	require.NoError(t, db.Close())

	for range 2 { // it is converted once
		s := open(t, sample.path, nil)
		require.Zero(t, countKeys(t, s.db, "org/app", 'r'))
		require.Zero(t, countKeys(t, s.db, "org/app", 'z'))
		require.NotZero(t, countKeys(t, s.db, "org/app", 'a'))
		require.Equal(t, 1, countKeys(t, s.db, "org/app", 'f'))
		for _, lock := range sample.locks() {
			found, err := s.ours.GetLock(t.Context(), lock.ID)
			require.NoError(t, err)
			require.Equal(t, lock.Owner, found.Owner)
		}
		again := request(stockLock("org/app", 5, "leased"))
		again.ID, again.Timeout = "request-leased", time.Hour
		lock, err := s.ours.AcquireLock(t.Context(), again)
		require.NoError(t, err)
		require.Equal(t, sample.leased.ID, lock.ID)
		ended := request(stockLock("org/app", 6, "released"))
		ended.ID = "request-released"
		_, err = s.ours.AcquireLock(t.Context(), ended)
		require.ErrorIs(t, err, enhanced.ErrLockExpired)
		require.NoError(t, s.ours.ReleaseLock(t.Context(), sample.released.ID))
		s.close(t)
		require.Empty(t, verifyFile(t, sample.path))
	}
}

// A repair converts, too: the file that it is for may be what keeps the
// service from starting.
func TestAFileOfTheFormatBeforeIsRepaired(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, func(e *editor) {
		e.age()
		e.put(e.app(), lockEntry(e.custom), "null")
	})
	require.Equal(t, []string{enhanced.RuleLockUnreadable}, rulesOf(verifyFile(t, sample.path)))
	db, err := bbolt.Open(sample.path, 0o600, nil)
	require.NoError(t, err)
	repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "why")
	require.NoError(t, err)
	require.Len(t, repaired, 1)
	require.NoError(t, db.Close())
	require.Empty(t, verifyFile(t, sample.path))
}
