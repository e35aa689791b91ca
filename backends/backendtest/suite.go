// Package backendtest is the suite that every backend passes, directly and
// behind Atlantis' own interfaces. A backend calls it with a constructor:
//
//	func TestSuite(t *testing.T) {
//		backendtest.Run(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend { ... })
//	}
package backendtest

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// FullRounds is the environment variable that makes concurrent cases run all
// their rounds instead of a twentieth.
const FullRounds = "ATLANTIS_LOCKS_TEST_FULL"

// NewBackend makes a backend on an empty store that ends with the test.
type NewBackend func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend

// Run runs the suite: the backend itself, the adapter on it, and the adapter
// behind Atlantis' locking client and project locker.
func Run(t *testing.T, newBackend NewBackend) {
	t.Helper()
	run(t, newBackend, (*testing.T).Parallel)
}

// RunShared is Run for backends on one store that is emptied for each: one case
// runs after the other.
func RunShared(t *testing.T, newBackend NewBackend) {
	t.Helper()
	run(t, newBackend, func(*testing.T) {})
}

func run(t *testing.T, newBackend NewBackend, begin func(*testing.T)) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, NewBackend){
		"Acquire":     testAcquire,
		"Release":     testRelease,
		"ByPull":      testByPull,
		"Leases":      testLeases,
		"Lapses":      testLapses,
		"Transfer":    testTransfer,
		"Reads":       testReads,
		"Names":       testNames,
		"Events":      testEvents,
		"Log":         testLog,
		"Memory":      testMemory,
		"Concurrency": testConcurrency,
		"Foresee":     testForesee,
		"Contexts":    testContexts,
		"Adapter":     testAdapter,
		"Client":      testClient,
		"Layers":      testLayers,
		"Verify":      testVerify,
		"Fleet":       testFleet,
	} {
		t.Run(name, func(t *testing.T) {
			begin(t)
			test(t, newBackend)
		})
	}
}

// Rounds returns how many rounds of full a concurrent case is to run.
func Rounds(full int) int {
	if all, err := strconv.ParseBool(os.Getenv(FullRounds)); err == nil && all {
		return full
	}
	return max(full/20, 1)
}

// Together runs n functions that start at the same moment, and waits for them.
func Together(n int, run func(i int)) {
	start := make(chan struct{})
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() {
			<-start
			run(i)
		})
	}
	close(start)
	done.Wait()
}

// patience is how long Eventually waits: longer than a machine that is busy
// with other tests needs for anything.
const patience = 40 * time.Second

// Eventually polls until condition holds, for at most 40 seconds.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not after %v: %s", patience, what)
		}
	}
}

const (
	repo = "org/app"
	host = "github.com"
)

// pull returns a pull request as Atlantis passes it, credentials included.
func pull(host, repository string, number int) models.PullRequest {
	owner, name := models.SplitRepoFullName(repository)
	return models.PullRequest{
		Num:        number,
		HeadCommit: "9d7f8b1f6e5a4c3b2a190817263544536271809f",
		URL:        "https://" + host + "/" + repository + "/pull/" + strconv.Itoa(number),
		HeadBranch: "feature",
		BaseBranch: "main",
		Author:     "author",
		BaseRepo: models.Repo{
			FullName: repository, Owner: owner, Name: name,
			CloneURL:          "https://bot:" + Credential + "@" + host + "/" + repository + ".git",
			SanitizedCloneURL: "https://bot:<redacted>@" + host + "/" + repository + ".git",
			VCSHost:           models.VCSHost{Hostname: host, Type: models.Github},
		},
	}
}

// Credential is the token in the clone URLs that the suite uses. It must never
// reach a store.
const Credential = "ghp_SUITE_SECRET_TOKEN"

func pullRequest(number int, path string) *enhanced.EnhancedLockRequest {
	return pullRequestOf(host, repo, number, path)
}

func pullRequestOf(host, repository string, number int, path string) *enhanced.EnhancedLockRequest {
	p := pull(host, repository, number)
	return &enhanced.EnhancedLockRequest{
		Project:   models.NewProject(repository, path, ""),
		Workspace: "default",
		Priority:  enhanced.PriorityNormal,
		Timeout:   enhanced.NoTimeout,
		User:      models.User{Username: "runner"},
		Pull:      &p,
	}
}

func userRequest(name, path string) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Project:   models.NewProject(repo, path, ""),
		Workspace: "default",
		Priority:  enhanced.PriorityNormal,
		Timeout:   enhanced.NoTimeout,
		User:      models.User{Username: name},
	}
}

func resource(path string) enhanced.ResourceIdentifier {
	return enhanced.ProjectResource(models.NewProject(repo, path, ""), "default")
}

func acquire(t *testing.T, b enhanced.Backend, request *enhanced.EnhancedLockRequest) *enhanced.EnhancedLock {
	t.Helper()
	lock, err := b.AcquireLock(t.Context(), request)
	require.NoError(t, err)
	return lock
}

// requireFree checks that nothing is held on a resource, by trying.
func requireFree(t *testing.T, b enhanced.Backend, r enhanced.ResourceIdentifier) {
	t.Helper()
	_, err := b.LookupLock(t.Context(), r)
	require.ErrorIs(t, err, enhanced.ErrLockNotFound)
}

func requireHeldBy(t *testing.T, b enhanced.Backend, r enhanced.ResourceIdentifier, owner string) {
	t.Helper()
	lock, err := b.LookupLock(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, owner, lock.Owner)
}

func itoa(n int) string { return strconv.Itoa(n) }
