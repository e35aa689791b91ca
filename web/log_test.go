package web_test

import (
	"net/http"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestLog(t *testing.T) {
	s := startServer(t, nil)
	lock := decode[api.Lock](t, s.post(t, api.LocksPath,
		`{`+prod+`,"owner":{"user":"alice"},"timeout":"30m","note":"back at noon","request_id":"one"}`), http.StatusCreated)
	decode[api.Unlocked](t, s.post(t, api.UnlockPath, `{`+prod+`,"force":true,"actor":"bob","reason":"on holiday"}`), http.StatusOK)
	decode[api.Lock](t, s.post(t, api.LocksPath, `{"repository":"acme/app","path":".","workspace":"w","project_name":"p","owner":{"pull":6,"host":"github.com"}}`), http.StatusCreated)

	list := decode[api.RepositoryList](t, s.get(t, api.RepositoriesPath), http.StatusOK)
	require.Equal(t, []string{"acme/app", "acme/infra"}, list.Repositories)

	page := decode[api.LogPage](t, s.get(t, api.LogPath+"?repository=acme/infra"), http.StatusOK)
	require.False(t, page.More)
	require.Zero(t, page.Trimmed)
	require.Len(t, page.Records, 2)
	held := &api.LockState{OwnerID: "user:alice", Token: lock.Token, ExpiresAt: lock.ExpiresAt, Note: "back at noon"}
	require.Equal(t, api.LogRecord{
		Repository: "acme/infra", Sequence: 1, Time: lock.AcquiredAt, Type: "acquired", LockID: lock.ID, RequestID: "one",
		Resource: "project", Path: "envs/prod", Workspace: "default", Token: lock.Token, Actor: "user:alice", Cause: "request", After: held,
	}, page.Records[0])
	second := page.Records[1]
	require.WithinDuration(t, time.Now(), second.Time, time.Minute)
	second.Time = time.Time{}
	require.Equal(t, api.LogRecord{
		Repository: "acme/infra", Sequence: 2, Type: "released", LockID: lock.ID,
		Resource: "project", Path: "envs/prod", Workspace: "default", Token: lock.Token,
		Actor: "user:bob", Cause: "forced", Reason: "on holiday", Before: held,
	}, second)

	page = decode[api.LogPage](t, s.get(t, api.LogPath+"?repository=acme/infra&limit=1"), http.StatusOK)
	require.True(t, page.More)
	require.Len(t, page.Records, 1)
	page = decode[api.LogPage](t, s.get(t, api.LogPath+"?repository=acme/infra&after=1&limit=1"), http.StatusOK)
	require.False(t, page.More)
	require.EqualValues(t, 2, page.Records[0].Sequence)
	for _, query := range []string{"?repository=acme/none", "?repository=", "?repository=acme/infra&after=2", "?repository=acme/infra&after=9007199254740991"} {
		require.Empty(t, decode[api.LogPage](t, s.get(t, api.LogPath+query), http.StatusOK).Records, query)
	}
}

func TestLogRefused(t *testing.T) {
	s := startServer(t, nil)
	for _, query := range []string{"", "?repository=r&limit=0", "?repository=r&limit=1001", "?repository=r&after=-1", "?repository=r&after=x", "?repository=r&after=18446744073709551615", "?repository=r&x=y"} {
		problem(t, s.get(t, api.LogPath+query), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	}
	problem(t, s.get(t, api.LogPath+"?repository"), http.StatusBadRequest, "INVALID_REQUEST")
}

// A record that can't be read is named, and hides no other.
func TestLogUnreadable(t *testing.T) {
	s, db := startServerOn(t)
	decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	decode[api.Unlocked](t, s.post(t, api.UnlockPath, lockByAlice), http.StatusOK)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(enhanced.RepositoryTag("acme/infra")))
		return bucket.Put([]byte("a\x00\x00\x00\x00\x00\x00\x00\x01"), []byte(`{"hunter2`))
	}))
	r := s.get(t, api.LogPath+"?repository=acme/infra")
	require.NotContains(t, string(r.body), "hunter2")
	page := decode[api.LogPage](t, r, http.StatusOK)
	require.Len(t, page.Records, 2)
	require.Equal(t, api.LogRecord{Repository: "acme/infra", Sequence: 1, Type: "unreadable", Token: "0"}, page.Records[0])
	require.Equal(t, "released", page.Records[1].Type)
}
