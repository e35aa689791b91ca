package backends

import (
	"math"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// What is stored can be damaged in any way. Reading it never panics, and what
// is accepted says the same when it is written and read again: nothing is read
// as something else than what is there.

func FuzzDecodeLockRecord(f *testing.F) {
	for _, seed := range []string{
		`{"n":"5","o":"user:a","p":1,"a":7,"s":"x"}`,
		`{"n":"5","o":"pr:h/o%2Fr/5","p":0,"a":7,"x":8,"q":"r","m":{"note":"<b>"},"l":{"Project":{}}}`,
		`{"n":"9223372036854775807","o":"user:%00","a":9223372036854775807,"l":null}`,
		`{"n":"5","n":"6","o":"user:a","a":7,"S":"x"}`,
		`{"n":"9","h":"h/5","p":1,"w":2,"u":"AZ9fAAAAcACAAAAAAAAAAA","s":"x"}`,
		`null`, `[]`, `{`, "{\"token\":\"5\",\"owner\":\"user:\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		record, err := decodeLockRecord("o/r", data)
		if err != nil {
			return
		}
		written, err := encodeLockRecord("o/r", record)
		require.NoError(t, err)
		again, err := decodeLockRecord("o/r", written)
		require.NoError(t, err)
		record.Lock, again.Lock = compacted(t, record.Lock), compacted(t, again.Lock)
		if len(record.Metadata) == 0 {
			record.Metadata = nil
		}
		require.Equal(t, record, again)
		require.Positive(t, again.Token)
		require.Equal(t, again.Expires != 0 && again.Expires <= 100, again.expiredAt(100))
	})
}

// compacted returns JSON without white space and with its escapes as
// encode writes them.
func compacted(t *testing.T, data jsontext.Value) jsontext.Value {
	t.Helper()
	if data == nil {
		return nil
	}
	written, err := encode(data)
	require.NoError(t, err)
	return written
}

func FuzzDecodeLogRecord(f *testing.F) {
	for _, seed := range []string{
		`{"t":5,"e":"acquired","n":"5","r":"project/a%2Fb/default/","q":"id","a":"user:a","c":"request","z":{"o":"user:a","n":"5","x":1767323045000006,"k":"n"}}`,
		`{"e":"deadlock","n":"0","r":"project/a//","d":{"k":"victim","p":"random","c":[{"o":"user:a","r":"project/a//","n":"","q":"1","t":5,"f":"user:b"}],"m":[{"o":"","r":"x///","q":""}]}}`,
		`{"t":-5,"e":"released","n":"-1","r":"///","a":"","c":"","w":"why","b":{"o":"","n":"0"}}`,
		`{"t":9223372036854775807,"n":"0","r":"x/%00/%FF/"}`,
		`{"t":5,"e":"acquired","k":7,"r":"project/a%2Fb/default/","s":"AZ9fAAAAcACAAAAAAAAAAA","z":{"h":"h/5"}}`,
		`{"r":"project/a%2fb/default/"}`, `null`, `{}`, `[`,
	} {
		f.Add("org/app", uint64(7), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, repository string, sequence uint64, data []byte) {
		record, err := decodeLogRecord(repository, sequence, data)
		if err != nil {
			return
		}
		written, err := encodeLogRecord(repository, logRecord{
			Time: record.Time.UnixMicro(), Type: record.Type, Token: record.Token,
			Resource: record.Resource.Key(), Request: record.RequestID,
			Actor: record.Actor, Cause: record.Cause, Reason: record.Reason,
			Before: storedSummary(record.Before), After: storedSummary(record.After),
			Deadlock: newDeadlockRecord(repository, record.Deadlock),
		})
		require.NoError(t, err)
		again, err := decodeLogRecord(repository, sequence, written)
		require.NoError(t, err)
		for _, r := range []*enhanced.LogRecord{record, again} {
			for _, summary := range []*enhanced.LockSummary{r.Before, r.After} {
				if summary != nil && summary.ExpiresAt != nil {
					at := summary.ExpiresAt.UTC()
					summary.ExpiresAt = &at
				}
			}
		}
		require.Equal(t, record, again)
		require.Equal(t, sequence, again.Sequence)
		require.Equal(t, repository, again.Resource.Namespace)
		require.NotNil(t, again.Event())
	})
}

func storedSummary(s *enhanced.LockSummary) *logSummary {
	if s == nil {
		return nil
	}
	return &logSummary{Owner: s.Owner, Token: s.Token, Expires: micros(s.ExpiresAt), Note: s.Note}
}

func FuzzDecodeProjectLock(f *testing.F) {
	stock, err := json.Marshal(models.ProjectLock{
		Project: models.NewProject("o/r", "a/b", "p"), Workspace: "w", User: models.User{Username: "u", Teams: []string{"t"}},
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)),
		Pull: models.PullRequest{Num: 5, URL: "https://h/pull/5", BaseRepo: models.Repo{
			FullName: "o/r", CloneURL: "https://bot:secret@h/o/r.git", VCSHost: models.VCSHost{Hostname: "h", Type: models.Gitlab},
		}},
	})
	require.NoError(f, err)
	f.Add(stock)
	for _, seed := range []string{
		`{"Project":{"RepoFullName":"o/r","Path":"."},"Workspace":"w","Time":"2026-01-02T03:04:05Z"}`,
		`{"User":{"Teams":[]},"Pull":{"BaseRepo":{"SanitizedCloneURL":"https://a:b@c"},"URL":"://:p@"}}`,
		`{"project":{"repofullname":"folded"}}`, `{}`, `null`, `[]`, `5`, `{"Pull":{"Num":"5"}}`, `{"Time":"0000-01-01T00:00:00+23:59"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lock, err := decodeProjectLock(data)
		if err != nil {
			return
		}
		written, err := encodeProjectLock(*lock)
		require.NoError(t, err)
		again, err := decodeProjectLock(written)
		require.NoError(t, err)
		require.Empty(t, again.Pull.BaseRepo.CloneURL)
		require.False(t, hasCredential(again))
		want := enhanced.SanitizeProjectLock(*lock)
		require.True(t, want.Time.Equal(again.Time))
		want.Time = again.Time
		if len(want.User.Teams) == 0 {
			want.User.Teams = nil
		}
		require.Equal(t, &want, again)
	})
}

func FuzzSplitKeys(f *testing.F) {
	f.Add(deadlineKey(7, "project/a/default/"))
	f.Add(forgetKey(7, 8))
	f.Add(forgetKey(-1, math.MinInt64))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, key []byte) {
		if at, resourceKey, ok := splitDeadlineKey(key); ok {
			require.Equal(t, key, deadlineKey(at, resourceKey))
		}
		if at, token, ok := splitForgetKey(key); ok {
			require.Equal(t, key, forgetKey(at, token))
		}
		require.NotPanics(t, func() { printableKey(key) })
	})
}
