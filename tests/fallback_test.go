package tests

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// legacyFile opens stock's database on a file of its own.
func legacyFile(t *testing.T) kept {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"runLocks", "pulls", "globalLocks"} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}))
	stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
	require.NoError(t, err)
	return newKept(stock, nil)
}

// site is where an adapter with a fallback lives: a server that it reaches through
// a network that can be cut, and a legacy database of its own.
type site struct {
	server *redistest.Server
	proxy  *redistest.Proxy
	legacy db.Database
	config *enhanced.EnhancedConfig
	// other is a client of the store that knows nothing of the fallback, on a
	// network that stays.
	other *backends.RedisBackend

	patience *redistest.Patience // of the adapter, while the network is cut

	mu     sync.Mutex // protects below
	events []*enhanced.ManagerEvent
}

func fallbackConfig() *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.Enabled, config.Backend, config.EnableEvents = true, enhanced.BackendRedis, true
	config.FallbackSingleReplica, config.PreserveLegacyFormat = true, false
	config.OperationTimeout = 20 * time.Second // a busy machine is no failure of a store
	return config
}

func newSite(t *testing.T, server *redistest.Server) *site {
	t.Helper()
	s := &site{server: server, proxy: redistest.StartProxy(t, server.Addr), legacy: legacyFile(t), config: fallbackConfig()}
	s.patience = &redistest.Patience{Away: s.proxy.IsCut, Wait: 150 * time.Millisecond}
	s.other = s.direct(t)
	return s
}

// backend is the adapter's client of the store. It gives up on it soon once the
// network is cut.
func (s *site) backend(t *testing.T) *backends.RedisBackend {
	t.Helper()
	return s.client(t, &redis.Options{Addr: s.proxy.Addr, Dialer: s.patience.Dial})
}

// direct is a client of the store on a network that is never cut.
func (s *site) direct(t *testing.T) *backends.RedisBackend {
	t.Helper()
	return s.client(t, &redis.Options{Addr: s.server.Addr})
}

func (s *site) client(t *testing.T, options *redis.Options) *backends.RedisBackend {
	t.Helper()
	const patience = 10 * time.Second
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = patience, patience, patience
	options.MaxRetries, options.DisableIdentity = -1, true
	client := redis.NewClient(options)
	b := backends.NewRedisBackend(client, s.config, nil)
	t.Cleanup(func() {
		require.NoError(t, b.Close())
		_ = client.Close() //nolint:errcheck // closing a backend may have closed it
	})
	return b
}

// cut lets the adapter not reach the store any more, without telling it.
func (s *site) cut() {
	s.proxy.Cut()
	s.patience.End()
}

// start starts an adapter: on the site's legacy database, or another one.
func (s *site) start(t *testing.T, legacy db.Database) *enhanced.LockingAdapter {
	t.Helper()
	return s.startOn(t, s.backend(t), legacy)
}

func (s *site) startOn(t *testing.T, b enhanced.Backend, legacy db.Database) *enhanced.LockingAdapter {
	t.Helper()
	manager := enhanced.NewEnhancedLockManager(b, s.config, nil)
	adapter := enhanced.NewLockingAdapter(manager, b, s.config, legacy, nil)
	adapter.AddEventCallback(func(_ context.Context, event *enhanced.ManagerEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, event)
	})
	t.Cleanup(func() { require.NoError(t, adapter.Close()) })
	return adapter
}

// ready starts an adapter whose fallback is ready.
func (s *site) ready(t *testing.T) *enhanced.LockingAdapter {
	t.Helper()
	adapter := s.start(t, s.legacy)
	take(t, adapter, lockOf("org/warm", 1, "."))
	require.Equal(t, enhanced.FallbackReady, adapter.Fallback().State, adapter.Fallback().Reason)
	return adapter
}

func (s *site) told(eventType string) (found []*enhanced.ManagerEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range s.events {
		if event.Type == eventType {
			found = append(found, event)
		}
	}
	return found
}

// heal lets the adapter reach the store again, and waits until it uses it.
func (s *site) heal(t *testing.T, adapter *enhanced.LockingAdapter) {
	t.Helper()
	s.proxy.Heal()
	backendtest.Eventually(t, "the fallback is ready again", func() bool {
		return adapter.Fallback().State == enhanced.FallbackReady
	})
}

const fallbackRepo = "org/app"

func tryFor(t *testing.T, database db.Database, number int, path string) (bool, models.ProjectLock) {
	t.Helper()
	acquired, lock, err := database.TryLock(lockOf(fallbackRepo, number, path))
	require.NoError(t, err)
	return acquired, lock
}

func fallbackResource(path string) enhanced.ResourceIdentifier {
	return enhanced.ProjectResource(models.NewProject(fallbackRepo, path, ""), "default")
}

// inStore is who has a project in the store, "" for nobody.
func (s *site) inStore(t *testing.T, path string) string {
	t.Helper()
	lock, err := s.other.LookupLock(t.Context(), fallbackResource(path))
	if err != nil {
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		return ""
	}
	return lock.Owner
}

// inLegacy is who has a project in the legacy database: the number of a pull
// request, 0 for nobody, -1 for a user.
func (s *site) inLegacy(t *testing.T, path string) int {
	t.Helper()
	lock, err := s.legacy.GetLock(models.NewProject(fallbackRepo, path, ""), "default")
	require.NoError(t, err)
	switch {
	case lock == nil:
		return 0
	case lock.Pull.Num == 0:
		return -1
	default:
		return lock.Pull.Num
	}
}

func pullText(number int) string {
	return enhanced.PullOwner("github.com", fallbackRepo, number).String()
}

// takeElsewhere takes a lock in the store behind the adapter's back.
func (s *site) takeElsewhere(t *testing.T, number int, path string, lease time.Duration) *enhanced.EnhancedLock {
	t.Helper()
	lock := lockOf(fallbackRepo, number, path)
	taken, acquired, err := s.other.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
		Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: lease,
	})
	require.NoError(t, err)
	require.True(t, acquired)
	return taken
}

// endLease has the lease of a lock end now: one that is short from the start can end
// before the adapter has heard of it.
func (s *site) endLease(t *testing.T, lock *enhanced.EnhancedLock) {
	t.Helper()
	require.NoError(t, s.other.RefreshLock(t.Context(), lock.ID, time.Millisecond))
	backendtest.Eventually(t, "the lease ends", func() bool {
		n, err := s.other.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		return n == 1
	})
}
