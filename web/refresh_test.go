package web_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestRefresh(t *testing.T) {
	s := startServer(t, nil)
	for name, owner := range map[string]string{"user": `"owner":{"user":"alice"}`, "pull request": pullSix} {
		t.Run(name, func(t *testing.T) {
			lock := decode[api.Lock](t, s.post(t, api.LocksPath, `{`+prod+`,`+owner+`,"timeout":"1m"}`), http.StatusCreated)
			answer := decode[api.Refreshed](t, s.post(t, api.RefreshPath, `{"id":"`+lock.ID+`",`+owner+`,"timeout":"1h"}`), http.StatusOK)
			require.Equal(t, api.Refreshed{ID: lock.ID}, answer)
			renewed := decode[api.Lock](t, s.get(t, api.LocksPath+"/"+lock.ID), http.StatusOK)
			require.Greater(t, renewed.ExpiresAt.Sub(*lock.ExpiresAt), 58*time.Minute)
			decode[api.Unlocked](t, s.post(t, api.UnlockPath, `{`+prod+`,`+owner+`}`), http.StatusOK)
			problem(t, s.post(t, api.RefreshPath, `{"id":"`+lock.ID+`",`+owner+`,"timeout":"1h"}`), http.StatusNotFound, "LOCK_NOT_FOUND")
			require.Zero(t, s.lockCount(t), "a lock that is gone does not come back")
		})
	}
}

func TestRefreshRefused(t *testing.T) {
	s := startServer(t, nil)
	lock := decode[api.Lock](t, s.post(t, api.LocksPath, `{`+prod+`,`+pullSix+`,"timeout":"1m"}`), http.StatusCreated)
	const invalid = "INVALID_REQUEST"
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"another user":         {`{"id":"ID","owner":{"user":"alice"},"timeout":"1h"}`, 403, "PERMISSION_DENIED"},
		"another pull request": {`{"id":"ID","owner":{"pull":5,"host":"github.com"},"timeout":"1h"}`, 403, "PERMISSION_DENIED"},
		"no owner":             {`{"id":"ID","owner":{},"timeout":"1h"}`, 422, invalid},
		"unknown ID":           {`{"id":"nonsense",` + pullSix + `,"timeout":"1h"}`, 404, "LOCK_NOT_FOUND"},
		"no ID":                {`{"id":"",` + pullSix + `,"timeout":"1h"}`, 422, invalid},
		"no timeout":           {`{"id":"ID",` + pullSix + `}`, 422, invalid},
		"no lease":             {`{"id":"ID",` + pullSix + `,"timeout":"none"}`, 422, invalid},
		"negative":             {`{"id":"ID",` + pullSix + `,"timeout":"-1h"}`, 422, invalid},
		"too long":             {`{"id":"ID",` + pullSix + `,"timeout":"9h"}`, 422, invalid},
	} {
		t.Run(name, func(t *testing.T) {
			problem(t, s.post(t, api.RefreshPath, withID(c.body, lock.ID)), c.status, c.code)
			same := decode[api.Lock](t, s.get(t, api.LocksPath+"/"+lock.ID), http.StatusOK)
			require.Equal(t, lock.ExpiresAt, same.ExpiresAt)
		})
	}
	held := decode[api.Lock](t, s.post(t, api.LocksPath, `{"repository":"acme/infra","path":"held","workspace":"default",`+pullSix+`}`), http.StatusCreated)
	problem(t, s.post(t, api.RefreshPath, `{"id":"`+held.ID+`",`+pullSix+`,"timeout":"1h"}`), 422, invalid)
}
