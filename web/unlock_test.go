package web_test

import (
	"net/http"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

const (
	prod        = `"repository":"acme/infra","path":"envs/prod","workspace":"default"`
	pullSix     = `"owner":{"pull":6,"host":"github.com"}`
	lockByAlice = `{` + prod + `,"owner":{"user":"alice"}}`
	lockByPull  = `{` + prod + `,` + pullSix + `}`
)

func TestUnlockByOwner(t *testing.T) {
	s := startServer(t, nil)
	for name, c := range map[string]struct{ lock, unlock string }{
		"user":                     {lockByAlice, lockByAlice},
		"user, path not clean":     {lockByAlice, `{"repository":"acme/infra","path":"./envs//prod/","workspace":"default","owner":{"user":"alice"}}`},
		"user by ID":               {lockByAlice, `{"id":"ID","owner":{"user":"alice"}}`},
		"user by ID and resource":  {lockByAlice, `{"id":"ID",` + prod + `,"owner":{"user":"alice"}}`},
		"pull request":             {lockByPull, lockByPull},
		"pull request by ID":       {lockByPull, `{"id":"ID",` + pullSix + `}`},
		"forced":                   {lockByAlice, `{` + prod + `,"force":true,"actor":"bob","reason":"on holiday"}`},
		"forced by ID":             {lockByPull, `{"id":"ID","force":true,"actor":"bob","reason":"on holiday"}`},
		"forced what was seen":     {lockByPull, `{"id":"ID",` + prod + `,"force":true,"actor":"bob","reason":"on holiday"}`},
		"forced by its own holder": {lockByAlice, `{` + prod + `,"force":true,"actor":"alice","reason":"forgot"}`},
	} {
		t.Run(name, func(t *testing.T) {
			lock := decode[api.Lock](t, s.post(t, api.LocksPath, c.lock), http.StatusCreated)
			answer := decode[api.Unlocked](t, s.post(t, api.UnlockPath, withID(c.unlock, lock.ID)), http.StatusOK)
			want := lock
			want.State = "released"
			require.Equal(t, want, answer.Lock)
			require.Equal(t, name[:4] == "forc", answer.Forced)
			require.Zero(t, s.lockCount(t))
		})
	}
}

func TestUnlockRefused(t *testing.T) {
	s := startServer(t, nil)
	lock := decode[api.Lock](t, s.post(t, api.LocksPath, lockByPull), http.StatusCreated)
	const invalid = "INVALID_REQUEST"
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"another user":            {lockByAlice, 403, "PERMISSION_DENIED"},
		"another user by ID":      {`{"id":"ID","owner":{"user":"alice"}}`, 403, "PERMISSION_DENIED"},
		"another pull request":    {`{` + prod + `,"owner":{"pull":66,"host":"github.com"}}`, 403, "PERMISSION_DENIED"},
		"another host":            {`{` + prod + `,"owner":{"pull":6,"host":"ghe.example"}}`, 403, "PERMISSION_DENIED"},
		"another workspace":       {`{"repository":"acme/infra","path":"envs/prod","workspace":"other",` + pullSix + `}`, 404, "LOCK_NOT_FOUND"},
		"another project name":    {`{` + prod + `,"project_name":"x",` + pullSix + `}`, 404, "LOCK_NOT_FOUND"},
		"unknown ID":              {`{"id":"nonsense",` + pullSix + `}`, 404, "LOCK_NOT_FOUND"},
		"ID of another resource":  {`{"id":"ID","repository":"acme/infra","path":"envs/dev","workspace":"default",` + pullSix + `}`, 404, "LOCK_NOT_FOUND"},
		"nothing":                 {`{}`, 422, invalid},
		"no owner":                {`{` + prod + `}`, 422, invalid},
		"no path":                 {`{"repository":"acme/infra","workspace":"default",` + pullSix + `}`, 422, invalid},
		"only a project name":     {`{"project_name":"x",` + pullSix + `}`, 422, invalid},
		"empty owner":             {`{` + prod + `,"owner":{}}`, 422, invalid},
		"force and owner":         {`{` + prod + `,` + pullSix + `,"force":true,"actor":"a","reason":"r"}`, 422, invalid},
		"force without actor":     {`{` + prod + `,"force":true,"reason":"r"}`, 422, invalid},
		"force without reason":    {`{` + prod + `,"force":true,"actor":"a"}`, 422, invalid},
		"force for a blank":       {`{` + prod + `,"force":true,"actor":"a","reason":"  "}`, 422, invalid},
		"force with control code": {`{` + prod + `,"force":true,"actor":"a","reason":"\u001b"}`, 422, invalid},
		"actor without force":     {`{` + prod + `,` + pullSix + `,"actor":"a"}`, 422, invalid},
		"force nothing":           {`{"force":true,"actor":"a","reason":"r"}`, 422, invalid},
	} {
		t.Run(name, func(t *testing.T) {
			p := problem(t, s.post(t, api.UnlockPath, withID(c.body, lock.ID)), c.status, c.code)
			if c.code == "PERMISSION_DENIED" {
				require.Equal(t, &lock, p.Holder)
			}
		})
	}
	require.Equal(t, 1, s.lockCount(t))
}

// An ID of the past never releases a later lock.
func TestUnlockOldID(t *testing.T) {
	s := startServer(t, nil)
	old := decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	decode[api.Unlocked](t, s.post(t, api.UnlockPath, lockByAlice), http.StatusOK)
	decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	again := decode[api.Unlocked](t, s.post(t, api.UnlockPath, `{"id":"`+old.ID+`","owner":{"user":"alice"}}`), http.StatusOK)
	require.Equal(t, old.ID, again.Lock.ID, "it is released, as asked")
	require.True(t, again.Lock.AcquiredAt.IsZero())
	problem(t, s.post(t, api.UnlockPath, `{"id":"`+old.ID+`","owner":{"user":"eve"}}`), http.StatusNotFound, "LOCK_NOT_FOUND")
	problem(t, s.post(t, api.UnlockPath, `{"id":"`+old.ID+`","force":true,"actor":"bob","reason":"r"}`), http.StatusNotFound, "LOCK_NOT_FOUND")
	require.Equal(t, 1, s.lockCount(t))
}
