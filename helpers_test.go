package enhanced_test

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

const (
	repo      = "org/app"
	host      = "github.com"
	workspace = "default"
	// credential is the token in the clone URL of pull; nothing may keep it.
	credential = "ghp_PLANTED_TOKEN"
)

// openFile opens a new bbolt file that ends with the test.
func openFile(t *testing.T) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// newBackend returns a backend on a new file; a nil config means the defaults.
func newBackend(t *testing.T, config *enhanced.EnhancedConfig) *backends.BoltBackend {
	t.Helper()
	return newBackendOn(t, openFile(t), config)
}

func newBackendOn(t *testing.T, db *bbolt.DB, config *enhanced.EnhancedConfig) *backends.BoltBackend {
	t.Helper()
	backend, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	return backend
}

// newManager returns a manager on a new file that is stopped with the test.
func newManager(t *testing.T, config *enhanced.EnhancedConfig, opts ...enhanced.ManagerOption) *enhanced.EnhancedLockManager {
	t.Helper()
	return newManagerOn(t, newBackend(t, config), config, opts...)
}

func newManagerOn(t *testing.T, backend enhanced.Backend, config *enhanced.EnhancedConfig, opts ...enhanced.ManagerOption) *enhanced.EnhancedLockManager {
	t.Helper()
	manager := enhanced.NewEnhancedLockManager(backend, config, nil, opts...)
	t.Cleanup(func() { require.NoError(t, manager.Stop(context.Background())) })
	return manager
}

// enabled returns the defaults with this system switched on.
func enabled() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	return config
}

// withEvents returns the defaults with callbacks switched on.
func withEvents() *enhanced.EnhancedConfig {
	config := enabled()
	config.EnableEvents = true
	return config
}

func project(path string) models.Project { return models.NewProject(repo, path, "") }

func resource(path string) enhanced.ResourceIdentifier {
	return enhanced.ProjectResource(project(path), workspace)
}

func alice() models.User { return models.User{Username: "alice"} }
func bob() models.User   { return models.User{Username: "bob"} }

// pull returns a pull request as Atlantis passes it, credential included.
func pull(number int) models.PullRequest {
	return models.PullRequest{
		Num:        number,
		HeadCommit: "9d7f8b1f6e5a4c3b2a190817263544536271809f",
		URL:        "https://" + host + "/" + repo + "/pull/" + strconv.Itoa(number),
		HeadBranch: "feature",
		BaseBranch: "main",
		Author:     "author",
		BaseRepo: models.Repo{
			FullName: repo, Owner: "org", Name: "app",
			CloneURL:          "https://bot:" + credential + "@" + host + "/" + repo + ".git",
			SanitizedCloneURL: "https://bot:<redacted>@" + host + "/" + repo + ".git",
			VCSHost:           models.VCSHost{Hostname: host, Type: models.Github},
		},
	}
}

// pullLock returns the lock that Atlantis asks for on behalf of a pull request.
func pullLock(number int, path string) models.ProjectLock {
	return models.ProjectLock{
		Project:   project(path),
		Workspace: workspace,
		Pull:      pull(number),
		User:      alice(),
		// Truncated to what JSON keeps.
		Time: time.Now().Truncate(time.Microsecond),
	}
}

// pullRequest returns the enhanced request of a pull request, without lease.
func pullRequest(number int, path string) *enhanced.EnhancedLockRequest {
	p := pull(number)
	return &enhanced.EnhancedLockRequest{
		Project: project(path), Workspace: workspace, User: alice(), Pull: &p,
		Priority: enhanced.PriorityNormal, Timeout: enhanced.NoTimeout,
	}
}

// recorder is an event callback that keeps what it is told.
type recorder struct {
	mu     sync.Mutex // protects events
	events []enhanced.ManagerEvent
}

func (r *recorder) callback(_ context.Context, event *enhanced.ManagerEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, *event)
}

func (r *recorder) all() []enhanced.ManagerEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]enhanced.ManagerEvent(nil), r.events...)
}

// types returns the types of the events so far, in their order.
func (r *recorder) types() []string {
	var types []string
	for _, event := range r.all() {
		types = append(types, event.Type)
	}
	return types
}

// pass lets d go by on the fake clock of a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

func itoa(n int) string { return strconv.Itoa(n) }

// ended returns a context that has ended already.
func ended(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
