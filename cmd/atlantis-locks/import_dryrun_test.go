package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// stockFile is a file that stock Atlantis has made, with records as an older
// one has left them.
func stockFile(t *testing.T, locks []models.ProjectLock, old map[string]models.ProjectLock) string {
	t.Helper()
	dir := t.TempDir()
	stock, err := boltdb.New(dir)
	require.NoError(t, err)
	require.NoError(t, stock.Close())
	path := filepath.Join(dir, dataFileName)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(stockLocksBucket))
		for _, lock := range locks {
			value, err := json.Marshal(lock)
			require.NoError(t, err)
			require.NoError(t, bucket.Put([]byte(models.GenerateLockKey(lock.Project, lock.Workspace)), value))
		}
		for key, lock := range old {
			value, err := json.Marshal(lock)
			require.NoError(t, err)
			require.NoError(t, bucket.Put([]byte(key), value))
		}
		return nil
	}))
	require.NoError(t, db.Close())
	return path
}

// lockServer serves a store of its own.
func lockServer(t *testing.T) (address string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), dataFileName), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	backend, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	server := httptest.NewServer(web.NewHandler(enhanced.NewEnhancedLockManager(backend, nil, nil), web.Options{}))
	t.Cleanup(server.Close)
	return server.URL
}

// importFile imports a file and returns the exit code and the report without
// what only a real import has: locks with IDs.
func importFile(t *testing.T, address, path string, flags ...string) (code int, report importReport) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(environment{
		stdout: &stdout, stderr: &stderr, now: time.Now, getenv: os.Getenv,
	}, append([]string{"import", path, "--server", address, "-o", "json"}, flags...))
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &report), stderr.String())
	report.DryRun = false
	for i := range report.Records {
		report.Records[i].LockID = ""
	}
	return code, report
}

// requireForetold checks that a dry run says what the import then does, and
// returns that.
func requireForetold(t *testing.T, address, path string) importReport {
	t.Helper()
	wantCode, want := importFile(t, address, path, "--dry-run")
	code, report := importFile(t, address, path)
	require.Equal(t, want, report)
	require.Equal(t, wantCode, code)
	return report
}

// Two records of one project, on both sides of where a request ends.
func TestImportDryRunOverRequests(t *testing.T) {
	var locks []models.ProjectLock
	for i := range batchRecords - 1 {
		locks = append(locks, stockLock("acme/infra", fmt.Sprintf("a%03d", i), "default", 5))
	}
	locks = append(locks, stockLock("acme/infra", "envs/prod", "default", 6))
	path := stockFile(t, locks, map[string]models.ProjectLock{
		"acme/infra/envs/prod/default": stockLock("acme/infra", "envs/prod", "default", 5),
	})
	report := requireForetold(t, lockServer(t), path)
	old, present := report.Records[batchRecords-1], report.Records[batchRecords]
	require.Equal(t, 5, old.Pull)
	require.Equal(t, api.OutcomeSkipped, old.Outcome, "in use, the present key's holder counts first")
	require.Contains(t, old.Why, "is locked by pull request 6 on github.com")
	require.Equal(t, 6, present.Pull)
	require.Equal(t, api.OutcomeTaken, present.Outcome)
}

// Random files in which records exclude each other, into stores in which some
// are held already.
func TestImportDryRunOfRandomFiles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 8 {
		address := lockServer(t)
		for range 2 {
			var locks []models.ProjectLock
			old := make(map[string]models.ProjectLock)
			for range random.IntN(300) {
				repository := []string{"acme", "acme/infra", "acme/infra/a"}[random.IntN(3)]
				path := []string{"", "infra/", "infra/a/", "a/", "./a/", "x/"}[random.IntN(6)] + fmt.Sprint(random.IntN(30))
				lock := stockLock(repository, path, "default", random.IntN(3))
				lock.Project.Path = path // as it is: stock has such records, too
				if random.IntN(2) == 0 {
					lock.Pull.BaseRepo.VCSHost = models.VCSHost{}
				}
				if random.IntN(2) == 0 {
					locks = append(locks, lock)
				} else {
					old[repository+"/"+path+"/default"] = lock
				}
			}
			requireForetold(t, address, stockFile(t, locks, old))
		}
	}
}
