package web_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

const freezeProd = `{"repository":"acme/infra","path":"envs/prod","workspace":"default",
	"owner":{"user":"alice"},"note":"database maintenance"}`

func TestAcquireForUser(t *testing.T) {
	s := startServer(t, nil)
	r := s.post(t, api.LocksPath, freezeProd)
	lock := decode[api.Lock](t, r, http.StatusCreated)
	location, err := r.Location()
	require.NoError(t, err)
	require.Equal(t, s.URL+api.LocksPath+"/"+lock.ID, location.String())
	require.Equal(t, api.Lock{
		ID: lock.ID, Type: "project", Repository: "acme/infra", Path: "envs/prod", Workspace: "default",
		State: "acquired", Priority: "normal", Owner: api.Owner{User: "alice"}, OwnerID: "user:alice",
		RequestedBy: "alice", Note: "database maintenance", AcquiredAt: lock.AcquiredAt, ExpiresAt: nil,
		Token: lock.Token, Metadata: map[string]string{"note": "database maintenance"},
	}, lock)
	require.WithinDuration(t, time.Now(), lock.AcquiredAt, time.Minute)
	require.Regexp(t, `^[1-9][0-9]+$`, lock.Token)

	byID := decode[api.Lock](t, s.get(t, api.LocksPath+"/"+lock.ID), http.StatusOK)
	require.Equal(t, lock, byID)
	byResource := decode[api.Lock](t, s.get(t, api.LookupPath+"?repository=acme/infra&path=envs/prod&workspace=default"), http.StatusOK)
	require.Equal(t, lock, byResource)
}

func TestAcquireForPullWithLease(t *testing.T) {
	s := startServer(t, nil)
	lock := decode[api.Lock](t, s.post(t, api.LocksPath, `{"repository":"group/sub/infra","path":"./a//b/","workspace":"w",
		"project_name":"vpc","owner":{"pull":7,"host":"gitlab.example"},"timeout":"30m","priority":"critical"}`), http.StatusCreated)
	require.Equal(t, "a/b", lock.Path)
	require.Equal(t, "vpc", lock.ProjectName)
	require.Equal(t, "critical", lock.Priority)
	require.Equal(t, api.Owner{Pull: 7, Host: "gitlab.example"}, lock.Owner)
	require.Equal(t, "pr:gitlab.example/group%2Fsub%2Finfra/7", lock.OwnerID)
	require.NotNil(t, lock.ExpiresAt)
	require.Equal(t, 30*time.Minute, lock.ExpiresAt.Sub(lock.AcquiredAt))
}

func TestAcquireHeld(t *testing.T) {
	s := startServer(t, nil)
	held := decode[api.Lock](t, s.post(t, api.LocksPath, freezeProd), http.StatusCreated)
	for name, owner := range map[string]string{"another": `{"user":"bob"}`, "itself": `{"user":"alice"}`, "a pull request": `{"pull":1,"host":"github.com"}`} {
		t.Run(name, func(t *testing.T) {
			p := problem(t, s.post(t, api.LocksPath, strings.Replace(freezeProd, `{"user":"alice"}`, owner, 1)), http.StatusConflict, "LOCK_EXISTS")
			require.Equal(t, &held, p.Holder)
			require.Contains(t, p.Detail, "user alice")
			require.Contains(t, p.Detail, "database maintenance")
		})
	}
	require.Equal(t, 1, s.lockCount(t))
}

// A repeated request whose answer was lost gets the lock that it already has.
func TestAcquireAgain(t *testing.T) {
	s := startServer(t, nil)
	body := strings.Replace(freezeProd, `{"repository"`, `{"request_id":"42","repository"`, 1)
	first := decode[api.Lock](t, s.post(t, api.LocksPath, body), http.StatusCreated)
	again := decode[api.Lock](t, s.post(t, api.LocksPath, body), http.StatusCreated)
	require.Equal(t, first, again)
}

func TestAcquireOneWinner(t *testing.T) {
	s := startServer(t, nil)
	const callers, rounds = 16, 10
	for round := range rounds {
		var winners, losers atomic.Int32
		start := make(chan struct{})
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				<-start
				r := s.post(t, api.LocksPath, fmt.Sprintf(`{"repository":"acme/infra","path":"p%d","workspace":"w","owner":{"user":"u%d"}}`, round, caller))
				switch r.StatusCode {
				case http.StatusCreated:
					winners.Add(1)
				case http.StatusConflict:
					losers.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		require.Equal(t, int32(1), winners.Load(), "round %d", round)
		require.Equal(t, int32(callers-1), losers.Load(), "round %d", round)
	}
	require.Equal(t, rounds, s.lockCount(t))
}

func TestAcquireRefusesWhatIsWrong(t *testing.T) {
	s := startServer(t, nil)
	base := `"repository":"acme/infra","path":"p","workspace":"w"`
	for name, c := range map[string]struct{ body, says string }{
		"no owner":            {`{` + base + `}`, "owner"},
		"empty owner":         {`{` + base + `,"owner":{}}`, "either user, or pull and host"},
		"two owners":          {`{` + base + `,"owner":{"user":"a","pull":1,"host":"h"}}`, "either user, or pull and host"},
		"pull without host":   {`{` + base + `,"owner":{"pull":1}}`, "either user, or pull and host"},
		"pull 0":              {`{` + base + `,"owner":{"pull":0,"host":"h"}}`, "body.owner.pull"},
		"pull -1":             {`{` + base + `,"owner":{"pull":-1,"host":"h"}}`, "body.owner.pull"},
		"pull 1.5":            {`{` + base + `,"owner":{"pull":1.5,"host":"h"}}`, "body.owner.pull"},
		"pull 2^63":           {`{` + base + `,"owner":{"pull":9223372036854775808,"host":"h"}}`, "body"},
		"no repository":       {`{"path":"p","workspace":"w","owner":{"user":"a"}}`, "repository"},
		"empty repository":    {`{"repository":"","path":"p","workspace":"w","owner":{"user":"a"}}`, "body.repository"},
		"blank repository":    {`{"repository":"  ","path":"p","workspace":"w","owner":{"user":"a"}}`, "repository"},
		"unknown field":       {`{` + base + `,"owner":{"user":"a"},"lease":"1h"}`, "body.lease"},
		"unknown inner field": {`{` + base + `,"owner":{"user":"a","name":"b"}}`, "body.owner.name"},
		"unknown priority":    {`{` + base + `,"owner":{"user":"a"},"priority":"urgent"}`, "body.priority"},
		"timeout 5":           {`{` + base + `,"owner":{"user":"a"},"timeout":"5"}`, `timeout \"5\"`},
		"timeout 0s":          {`{` + base + `,"owner":{"user":"a"},"timeout":"0s"}`, "timeout"},
		"timeout -1ns":        {`{` + base + `,"owner":{"user":"a"},"timeout":"-1ns"}`, "timeout"},
		"timeout 1ns":         {`{` + base + `,"owner":{"user":"a"},"timeout":"1ns"}`, "timeout"},
		"timeout 9999999h":    {`{` + base + `,"owner":{"user":"a"},"timeout":"9999999h"}`, "timeout"},
		"timeout as number":   {`{` + base + `,"owner":{"user":"a"},"timeout":5}`, "body.timeout"},
		"path leads out":      {`{"repository":"r","path":"../x","workspace":"w","owner":{"user":"a"}}`, "path"},
		"path is absolute":    {`{"repository":"r","path":"/etc/passwd","workspace":"w","owner":{"user":"a"}}`, "path"},
		"NUL":                 {`{"repository":"o/r\u0000x","path":"p","workspace":"w","owner":{"user":"a"}}`, "control character"},
		"line break":          {`{"repository":"o/r\r\nFLUSHALL","path":"p","workspace":"w","owner":{"user":"a"}}`, "control character"},
		"escape sequence":     {`{"repository":"o/r","path":"\u001b[2J","workspace":"w","owner":{"user":"a"}}`, "control character"},
		"right to left":       {`{"repository":"o/r","path":"\u202e","workspace":"w","owner":{"user":"a"}}`, "invisible"},
		"long name":           {`{"repository":"` + strings.Repeat("r", 1025) + `","path":"p","workspace":"w","owner":{"user":"a"}}`, "1025 bytes"},
		"long note":           {`{` + base + `,"owner":{"user":"a"},"note":"` + strings.Repeat("n", 4096) + `"}`, "metadata"},
		"control in note":     {`{` + base + `,"owner":{"user":"a"},"note":"\u0007"}`, "control character"},
		"null":                {`null`, "body"},
		"array":               {`[]`, "body"},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.post(t, api.LocksPath, c.body)
			p := problem(t, r, http.StatusUnprocessableEntity, "INVALID_REQUEST")
			require.Contains(t, string(r.body), c.says, "%s", p.Detail)
		})
	}
	require.Zero(t, s.lockCount(t))
}

// Names that look dangerous but name real things are taken byte for byte.
func TestAcquireOddNames(t *testing.T) {
	s := startServer(t, nil)
	for _, name := range []string{"{}", "{a", "*", "x[1]", "a?b", `C:\x`, "<script>alert(1)</script>", "emoji 🔒", "%2e%2e%2f", "a+b", "a&b=c", "日本", "ǅ"} {
		encoded := `{"repository":` + quote(t, name) + `,"path":` + quote(t, name) + `,"workspace":` + quote(t, name) + `,"owner":{"user":` + quote(t, name) + `}}`
		lock := decode[api.Lock](t, s.post(t, api.LocksPath, encoded), http.StatusCreated)
		require.Equal(t, name, lock.Repository)
		require.Equal(t, name, lock.Owner.User)

		query := url.Values{"repository": {name}, "path": {name}, "workspace": {name}}.Encode()
		require.Equal(t, lock, decode[api.Lock](t, s.get(t, api.LookupPath+"?"+query), http.StatusOK))
		list := decode[api.LockList](t, s.get(t, api.LocksPath+"?"+url.Values{"repository": {name}, "owner": {lock.OwnerID}}.Encode()), http.StatusOK)
		require.Equal(t, []api.Lock{lock}, list.Locks)
	}
}

func TestList(t *testing.T) {
	s := startServer(t, nil)
	require.Equal(t, "{\"locks\":[]}\n", string(s.get(t, api.LocksPath).body))
	for _, body := range []string{
		freezeProd,
		`{"repository":"acme/infra-prod","path":".","workspace":"default","owner":{"user":"bob"}}`,
		`{"repository":"acme/infra","path":"envs/dev","workspace":"default","owner":{"pull":5,"host":"github.com"}}`,
	} {
		decode[api.Lock](t, s.post(t, api.LocksPath, body), http.StatusCreated)
	}
	for query, want := range map[string]string{
		"":                                      "acme/infra envs/dev, acme/infra envs/prod, acme/infra-prod .",
		"?repository=acme/infra":                "acme/infra envs/dev, acme/infra envs/prod",
		"?repository=acme":                      "",
		"?owner=user:bob":                       "acme/infra-prod .",
		"?owner=pr:github.com/acme%252Finfra/5": "acme/infra envs/dev",
		"?repository=acme/infra&owner=user:bob": "",
		"?repository=acme%2Finfra&owner=user%3Abob": "",
		"?repository=acme%252Finfra":                "", // decoded once
		"?owner=" + url.QueryEscape("user:nobody"):  "",
		"?owner=" + url.QueryEscape("user:al%69ce"): "error",
		"?owner=alice":    "error",
		"?repository=%ff": "",
		"?repository=acme/infra&owner=user:alice":    "acme/infra envs/prod",
		"?repository=acme/infra&owner=system:person": "",
	} {
		t.Run(query, func(t *testing.T) {
			r := s.get(t, api.LocksPath+query)
			if want == "error" {
				require.Contains(t, problem(t, r, http.StatusUnprocessableEntity, "INVALID_REQUEST").Detail, "owner")
				return
			}
			var got []string
			for _, lock := range decode[api.LockList](t, r, http.StatusOK).Locks {
				got = append(got, lock.Repository+" "+lock.Path)
			}
			require.Equal(t, want, strings.Join(got, ", "))
		})
	}
}

func TestReadsThatFindNothing(t *testing.T) {
	s := startServer(t, nil)
	for _, path := range []string{
		api.LookupPath + "?repository=acme/infra&path=p&workspace=w",
		api.LocksPath + "/" + enhanced.FormatLockID("acme/infra", 5),
		api.LocksPath + "/nonsense",
		api.LocksPath + "/%2e%2e%2f",
		api.LocksPath + "/%00",
		api.LocksPath + "/%252e",
		api.LocksPath + "/a+b",
		api.LocksPath + "/%ff%fe",
	} {
		problem(t, s.get(t, path), http.StatusNotFound, "LOCK_NOT_FOUND")
	}
	// What was escaped twice was decoded once, and + in a path is a plus.
	require.Contains(t, problem(t, s.get(t, api.LocksPath+"/%252e"), http.StatusNotFound, "LOCK_NOT_FOUND").Detail, `"%2e"`)
	require.Contains(t, problem(t, s.get(t, api.LocksPath+"/a+b"), http.StatusNotFound, "LOCK_NOT_FOUND").Detail, `"a+b"`)
	p := problem(t, s.get(t, api.LookupPath+"?repository=acme/infra&path=p"), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	require.Contains(t, p.Detail, "query.workspace")
	problem(t, s.get(t, api.LookupPath+"?repository=%ff&path=p&workspace=w"), http.StatusUnprocessableEntity, "INVALID_REQUEST")
}

// A lease that has run out is told from a lock that never was.
func TestExpiredLock(t *testing.T) {
	s := startServer(t, nil)
	lock := decode[api.Lock](t, s.post(t, api.LocksPath, strings.Replace(freezeProd, `{"repository"`, `{"timeout":"1ms","repository"`, 1)), http.StatusCreated)
	require.Eventually(t, func() bool {
		_, err := s.backend.GetLock(t.Context(), lock.ID)
		return errors.Is(err, enhanced.ErrLockExpired)
	}, 10*time.Second, time.Millisecond)
	problem(t, s.get(t, api.LocksPath+"/"+lock.ID), http.StatusGone, "LOCK_EXPIRED")
}
