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

// ageToSecond makes the file what the second format has in it: the index of what
// owners hold.
func (e *editor) ageToSecond() {
	for _, l := range e.locks() {
		entry := "o" + l.Owner + "\x00" + l.Resource.Key()
		if l.OriginalLock.Pull.Num != 0 {
			entry = pullEntry(l, itoa(int64(l.OriginalLock.Pull.Num)))
		}
		e.put(e.bucket(l.Resource.Namespace), entry, "\x01")
	}
	// Of none.
	e.put(e.app(), "op5/github.com\x00project/none/default/", "\x01")
	e.put(e.root(), "format", "2")
}

// age makes the file what the first format has in it.
func (e *editor) age() {
	e.ageToSecond()
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
		e.ageLog(repository, e.bucket(repository))
	}
	e.put(e.root(), "format", "1")
}

// nest moves the repositories to where the formats before have them. It takes a
// transaction of its own: bbolt moves a bucket as it is in the file.
func nest(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		for _, repository := range []string{"org/app", "org/other"} {
			require.NoError(t, tx.MoveBucket([]byte(enhanced.RepositoryTag(repository)), nil, tx.Bucket([]byte("enhanced"))))
		}
		return nil
	}))
	require.NoError(t, db.Close())
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

// requireReadable wants the file of a sample to be read as it is, before it is converted.
func requireReadable(t *testing.T, sample *sample) {
	t.Helper()
	require.Empty(t, verifyFile(t, sample.path))
	db, err := bbolt.Open(sample.path, 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	inventory, err := backends.ReadBoltInventory(db)
	require.NoError(t, err)
	require.Len(t, inventory.Locks, len(sample.locks()))
	require.NoError(t, db.Close())
}

// What owners hold is found again, and the index is gone from the file.
func TestAFileOfTheSecondFormatIsConverted(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, (*editor).ageToSecond)
	nest(t, sample.path)
	requireReadable(t, sample)

	s := open(t, sample.path, nil)
	require.Zero(t, countKeys(t, s.db, "org/app", 'o'))
	require.Zero(t, countKeys(t, s.db, "org/other", 'o'))
	released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.Len(t, released, 2)
	require.Equal(t, sample.leased.ID, released[0].ID)
	require.Equal(t, sample.plain.ID, released[1].ID)
	s.close(t)
	require.Empty(t, verifyFile(t, sample.path))
}

func TestAFileOfTheFirstFormatIsConverted(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, (*editor).age)
	nest(t, sample.path)
	requireReadable(t, sample)

	for range 2 { // it is converted once
		s := open(t, sample.path, nil)
		require.Zero(t, countKeys(t, s.db, "org/app", 'o'))
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
func TestAFileOfTheFirstFormatIsRepaired(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, func(e *editor) {
		e.age()
		e.put(e.app(), lockEntry(e.custom), "null")
	})
	nest(t, sample.path)
	require.Equal(t, []string{enhanced.RuleLockUnreadable}, rulesOf(verifyFile(t, sample.path)))
	db, err := bbolt.Open(sample.path, 0o600, nil)
	require.NoError(t, err)
	repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "why")
	require.NoError(t, err)
	require.Len(t, repaired, 1)
	require.NoError(t, db.Close())
	require.Empty(t, verifyFile(t, sample.path))
}
