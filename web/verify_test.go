package web_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// startServerOn serves the API on a file that the test can damage.
func startServerOn(t *testing.T, opts ...enhanced.ManagerOption) (*server, *bbolt.DB) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	backend, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil, opts...)
	return &server{backend: backend, Server: newTestServer(t, web.NewHandler(manager, web.Options{}))}, db
}

// damage puts a record that can't be read, and one that belongs nowhere.
func damage(t *testing.T, db *bbolt.DB) {
	t.Helper()
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(
			tx.Bucket([]byte("runLocks")).Put([]byte("acme/infra/x/default/"), []byte(`{"hunter2`)),
			tx.Bucket([]byte("enhanced")).Put([]byte("other"), []byte("hunter2")),
		)
	}))
}

func TestVerifyAndRepair(t *testing.T) {
	s, db := startServerOn(t)
	decode[api.Lock](t, s.post(t, api.LocksPath, lockByAlice), http.StatusCreated)
	require.Empty(t, decode[api.Verification](t, s.post(t, api.VerifyPath, ""), http.StatusOK).Violations)

	damage(t, db)
	r := s.post(t, api.VerifyPath, "")
	require.NotContains(t, string(r.body), "hunter2")
	found := decode[api.Verification](t, r, http.StatusOK).Violations
	require.Len(t, found, 2)
	require.Equal(t, enhanced.RuleUnknownEntry, found[0].Rule)
	require.Empty(t, found[0].Repair)
	require.Equal(t, enhanced.RuleStockUnreadable, found[1].Rule)
	require.Equal(t, "runLocks/acme/infra/x/default/", found[1].Record)
	require.Equal(t, "acme/infra", found[1].Repository)
	require.NotEmpty(t, found[1].Detail)
	require.NotEmpty(t, found[1].Repair)

	repair := decode[api.Repair](t, s.post(t, api.RepairPath, `{"actor":"bob","reason":"the disk was full"}`), http.StatusOK)
	require.Equal(t, api.Repair{Repaired: found[1:], Remaining: found[:1]}, repair)
	log := decode[api.LogPage](t, s.get(t, api.LogPath+"?repository=acme/infra"), http.StatusOK)
	require.Len(t, log.Records, 2)
	require.Equal(t, "user:bob", log.Records[1].Actor)
	require.Empty(t, log.Records[1].LockID, "it was about no lock")
	require.Contains(t, log.Records[1].Reason, "the disk was full")
	require.Equal(t, 1, s.lockCount(t))
}

func TestRepairRefused(t *testing.T) {
	s, db := startServerOn(t, enhanced.WithAuthorizer(func(_ context.Context, r enhanced.AuthorizationRequest) error {
		if r.Action == enhanced.ActionRepair && r.Actor == "user:eve" {
			return errors.New("not eve")
		}
		return nil
	}))
	damage(t, db)
	for body, code := range map[string]string{
		`{}`:                              "INVALID_REQUEST",
		`{"actor":"a"}`:                   "INVALID_REQUEST",
		`{"reason":"r"}`:                  "INVALID_REQUEST",
		`{"actor":"a","reason":" "}`:      "INVALID_REQUEST",
		`{"actor":"a","reason":"\u001b"}`: "INVALID_REQUEST",
	} {
		problem(t, s.post(t, api.RepairPath, body), http.StatusUnprocessableEntity, code)
	}
	p := problem(t, s.post(t, api.RepairPath, `{"actor":"eve","reason":"r"}`), http.StatusForbidden, "PERMISSION_DENIED")
	require.Contains(t, p.Detail, "user eve may not repair the store")
	require.Len(t, decode[api.Verification](t, s.post(t, api.VerifyPath, ""), http.StatusOK).Violations, 2, "nothing was repaired")
}

// A store that can't be verified says so.
func TestVerifyWithoutVerifier(t *testing.T) {
	s := startServer(t, func(b enhanced.Backend) enhanced.Backend { return struct{ enhanced.Backend }{b} })
	problem(t, s.post(t, api.VerifyPath, ""), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	problem(t, s.post(t, api.RepairPath, `{"actor":"a","reason":"r"}`), http.StatusUnprocessableEntity, "INVALID_REQUEST")
}
