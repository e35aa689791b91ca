package enhanced_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// The code of the specification, as it stands there but for what needs Redis and
// for the changes that its comments name. A change of a name that the specification uses breaks this
// file. Values that a piece of its code leaves unused are assigned to the blank
// identifier after it.

// Each of the specification's partial literals is valid.
func TestSpecificationConfigurations(t *testing.T) {
	t.Parallel()
	tests := map[string]*enhanced.EnhancedConfig{
		"advanced": {
			// Core settings
			Enabled:        true,
			Backend:        "redis",
			DefaultTimeout: 30 * time.Minute,
			MaxTimeout:     2 * time.Hour,

			// Priority queue
			EnablePriorityQueue: true,
			MaxQueueSize:        1000,
			QueueTimeout:        10 * time.Minute,

			// Retry logic
			EnableRetry:      true,
			MaxRetryAttempts: 3,
			RetryBaseDelay:   time.Second,
			RetryMaxDelay:    30 * time.Second,

			// Deadlock detection
			EnableDeadlockDetection: true,
			DeadlockCheckInterval:   30 * time.Second,

			// Events
			EnableEvents:    true,
			EventBufferSize: 1000,

			// Redis
			RedisClusterMode: false,
			RedisKeyPrefix:   "atlantis:enhanced:lock:",
			RedisLockTTL:     time.Hour,

			// Compatibility
			LegacyFallback:       true,
			PreserveLegacyFormat: true,
		},
		"high throughput": {
			// Increase queue size
			MaxQueueSize: 10000,

			// Reduce timeout for faster turnover
			DefaultTimeout: 15 * time.Minute,

			// Enable retry for resilience
			EnableRetry:      true,
			MaxRetryAttempts: 2,

			// Use Redis Cluster for scaling
			RedisClusterMode: true,
		},
		"low latency": {
			// Disable queuing for immediate responses
			EnablePriorityQueue: false,

			// Disable deadlock detection overhead
			EnableDeadlockDetection: false,

			// Reduce timeouts
			DefaultTimeout: 5 * time.Minute,

			// Use single Redis instance for lowest latency
			RedisClusterMode: false,
		},
		"memory": {
			// Shorter TTL for automatic cleanup
			RedisLockTTL: 30 * time.Minute,

			// Smaller queue for memory efficiency
			MaxQueueSize: 100,

			// Smaller event buffer
			EventBufferSize: 100,
		},
	}
	for name, config := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, config.Validate())
			if config.RedisClusterMode {
				return
			}
			backend := newBackend(t, config)
			manager := newManagerOn(t, backend, config)
			_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
			require.NoError(t, err)
		})
	}
}

// specified is what the specification's code takes for granted.
type specified struct {
	adapter *enhanced.LockingAdapter
	manager *enhanced.EnhancedLockManager
	backend *backends.BoltBackend
	config  *enhanced.EnhancedConfig
	logger  logging.SimpleLogging
}

// newSpecified is "Basic Usage" and "Phase 1" on bbolt: the constructor of the
// backend, which touches the file, also returns an error.
func newSpecified(t *testing.T) specified {
	t.Helper()
	logger := logging.NewNoopLogger(t)
	file := openFile(t)
	legacyBackend := stockOn(t, file)

	config := enhanced.DefaultConfig()
	config.Enabled = true
	config.LegacyFallback = true

	backend, err := backends.NewBoltBackend(file, config, logger)
	require.NoError(t, err)
	manager := enhanced.NewEnhancedLockManager(backend, config, logger)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, legacyBackend, logger)

	// Use adapter instead of legacy backend
	var lockingBackend db.Database = adapter
	t.Cleanup(func() { require.NoError(t, lockingBackend.Close()) })
	return specified{adapter, manager, backend, config, logger}
}

func TestSpecificationCompatibility(t *testing.T) {
	t.Parallel()
	s := newSpecified(t)
	ctx, adapter, logger := t.Context(), s.adapter, s.logger

	checker := enhanced.NewCompatibilityChecker(adapter, logger)
	report, err := checker.RunCompatibilityTest(ctx)
	if err != nil || !report.Success {
		logger.Err("Compatibility test failed: %v", err) // logger.Error is Err
		// Continue using legacy backend
	}

	require.NoError(t, err)
	require.True(t, report.Success)
}

func TestSpecificationDropIn(t *testing.T) {
	t.Parallel()
	s := newSpecified(t)
	ctx, adapter, manager := t.Context(), s.adapter, s.manager
	projectLock := pullLock(5, "a")

	// All existing methods work unchanged:
	acquired, resp, err := adapter.TryLock(projectLock)
	require.NoError(t, err)
	require.True(t, acquired)
	require.Equal(t, 5, resp.Pull.Num)
	locks, err := adapter.List()
	require.NoError(t, err)
	require.Len(t, locks, 1)
	// Atlantis' Unlock has no user; the manager's has.
	unlockedLock, err := adapter.Unlock(projectLock.Project, projectLock.Workspace)
	require.NoError(t, err)
	require.Equal(t, 5, unlockedLock.Pull.Num)
	_, err = manager.Lock(ctx, project("a"), workspace, alice())
	require.NoError(t, err)
	unlockedByUser, err := manager.Unlock(ctx, project("a"), workspace, alice())
	require.NoError(t, err)
	require.Equal(t, alice(), unlockedByUser.User)
}

func TestSpecificationEnhancedFeatures(t *testing.T) {
	t.Parallel()
	ctx, adapter := t.Context(), newSpecified(t).adapter
	project, workspace, user := project("a"), "default", alice()

	// Lock with priority
	lock, err := adapter.LockWithPriority(ctx, project, workspace, user, enhanced.PriorityHigh)
	require.NoError(t, err)
	require.Equal(t, user, lock.User)

	// Lock with timeout
	workspace = "staging"
	lock, err = adapter.LockWithTimeout(ctx, project, workspace, user, 30*time.Second)
	require.NoError(t, err)
	require.Equal(t, workspace, lock.Workspace)

	// Get queue position
	position, err := adapter.GetQueuePosition(ctx, project, workspace)
	require.NoError(t, err)
	require.Zero(t, position)

	// Get enhanced statistics
	stats, err := adapter.GetEnhancedStats(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, stats.ActiveLocks)
}

func TestSpecificationRollout(t *testing.T) {
	t.Parallel()
	s := newSpecified(t)
	ctx, adapter, logger, enhancedConfig := t.Context(), s.adapter, s.logger, s.config

	enhancedConfig.Enabled = true

	// Check health
	err := adapter.HealthCheck(ctx)
	require.NoError(t, err)

	// Monitor metrics
	stats, err := adapter.GetEnhancedStats(ctx)
	require.NoError(t, err)
	logger.Info("Enhanced locking stats: %+v", stats)

	enhancedConfig.EnablePriorityQueue = true
	enhancedConfig.MaxQueueSize = 1000
	enhancedConfig.EnableRetry = true
	enhancedConfig.MaxRetryAttempts = 3
	enhancedConfig.EnableDeadlockDetection = true
	require.NoError(t, adapter.UpdateConfiguration(enhancedConfig))
	enhancedConfig.LegacyFallback = false
	require.NoError(t, adapter.UpdateConfiguration(enhancedConfig))
}

func TestSpecificationMetrics(t *testing.T) {
	t.Parallel()
	ctx, adapter := t.Context(), newSpecified(t).adapter

	stats, _ := adapter.GetEnhancedStats(ctx)

	// Core metrics
	fmt.Printf("Active Locks: %d\n", stats.ActiveLocks)
	fmt.Printf("Total Requests: %d\n", stats.TotalRequests)
	fmt.Printf("Success Rate: %.2f%%\n",
		float64(stats.SuccessfulAcquires)/float64(stats.TotalRequests)*100)

	// Performance metrics
	fmt.Printf("Average Wait Time: %v\n", stats.AverageWaitTime)
	fmt.Printf("Average Hold Time: %v\n", stats.AverageHoldTime)
	fmt.Printf("Queue Depth: %d\n", stats.QueueDepth)

	// Health score (0-100)
	fmt.Printf("Health Score: %d\n", stats.HealthScore)
}

func TestSpecificationMonitoring(t *testing.T) {
	t.Parallel()
	s := newSpecified(t)
	ctx, adapter, backend, logger := t.Context(), s.adapter, s.backend, s.logger

	// Application health check
	if err := adapter.HealthCheck(ctx); err != nil {
		logger.Err("Enhanced locking health check failed: %v", err) // the specification's logger.Error
	}

	// Detailed component health: the adapter is no manager, it has one.
	if manager, ok := adapter.Manager().(*enhanced.EnhancedLockManager); ok {
		managerHealth := manager.GetHealth(ctx)
		backendHealth := manager.GetBackend().HealthCheck(ctx)
		require.NoError(t, managerHealth)
		require.NoError(t, backendHealth)
	} else {
		t.Fatalf("the manager is a %T", adapter.Manager())
	}

	// Subscribe to lock events
	ctx, cancel := context.WithCancel(ctx)
	eventChan, err := backend.Subscribe(ctx, []string{"acquired", "released", "timeout"})
	require.NoError(t, err)
	done := make(chan struct{})
	first := make(chan string, 1)
	go func() {
		defer close(done)
		for event := range eventChan {
			logger.Info("Lock event: %s - %s", event.Type, event.LockID)
			first <- event.Type
		}
	}()
	_, _, err = adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	require.Equal(t, "acquired", <-first)
	cancel()
	<-done
}

func TestSpecificationTroubleshooting(t *testing.T) {
	t.Parallel()
	s := newSpecified(t)
	ctx, adapter, logger, config := t.Context(), s.adapter, s.logger, s.config

	// Check if enhanced mode is enabled
	if !adapter.IsEnhancedModeEnabled() {
		logger.Info("Enhanced locking is disabled, using legacy backend")
	}

	// Check queue status if queuing is enabled
	position, err := adapter.GetQueuePosition(ctx, project("a"), workspace)
	logger.Info("Current queue position: %d", position)
	require.NoError(t, err)

	// Check backend health
	err = adapter.HealthCheck(ctx)
	if err != nil {
		logger.Err("Backend health issue: %v", err)
	}

	// Monitor queue depth
	stats, _ := adapter.GetEnhancedStats(ctx)
	if stats.QueueDepth > 100 {
		logger.Warn("Queue depth is high: %d", stats.QueueDepth)
	}

	// Enable detailed logging
	config.EnableEvents = true
	config.EventBufferSize = 10000
	require.NoError(t, adapter.UpdateConfiguration(config))

	// Log all lock operations
	adapter.AddEventCallback(func(ctx context.Context, event *enhanced.ManagerEvent) {
		logger.Debug("Lock event: %+v", event)
	})
	_, _, err = adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
}

func TestSpecificationRollback(t *testing.T) {
	t.Parallel()
	s := newSpecified(t)
	adapter, config := s.adapter, s.config

	// Emergency rollback - disable enhanced features
	config.Enabled = false
	config.LegacyFallback = true

	// Or disable specific features
	config.EnablePriorityQueue = false
	config.EnableDeadlockDetection = false

	// Update configuration at runtime
	require.NoError(t, adapter.UpdateConfiguration(config))
	require.False(t, adapter.IsEnhancedModeEnabled())
}

// The interfaces of the specification's API reference. Ours have more methods.
type (
	specifiedLockManager interface {
		Lock(ctx context.Context, project models.Project, workspace string, user models.User) (*models.ProjectLock, error)
		Unlock(ctx context.Context, project models.Project, workspace string, user models.User) (*models.ProjectLock, error)
		List(ctx context.Context) ([]*models.ProjectLock, error)

		// Enhanced methods
		LockWithPriority(ctx context.Context, project models.Project, workspace string, user models.User, priority enhanced.Priority) (*models.ProjectLock, error)
		LockWithTimeout(ctx context.Context, project models.Project, workspace string, user models.User, timeout time.Duration) (*models.ProjectLock, error)
		GetQueuePosition(ctx context.Context, project models.Project, workspace string) (int, error)
		GetStats(ctx context.Context) (*enhanced.BackendStats, error)
		GetHealth(ctx context.Context) error
	}
	specifiedBackend interface {
		AcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error)
		ReleaseLock(ctx context.Context, lockID string) error
		GetLock(ctx context.Context, lockID string) (*enhanced.EnhancedLock, error)
		ListLocks(ctx context.Context) ([]*enhanced.EnhancedLock, error)
		HealthCheck(ctx context.Context) error
		GetStats(ctx context.Context) (*enhanced.BackendStats, error)

		// The floor beyond the specification.
		TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error)
		RefreshLock(ctx context.Context, lockID string, extension time.Duration) error
		TransferLock(ctx context.Context, lockID, newOwner string) error
		GetQueueStatus(ctx context.Context) (*enhanced.QueueStatus, error)
		Subscribe(ctx context.Context, eventTypes []string) (<-chan *enhanced.LockEvent, error)
		CleanupExpiredLocks(ctx context.Context) (int, error)
	}
)

var (
	_ specifiedLockManager = enhanced.LockManager(nil)
	_ specifiedBackend     = enhanced.Backend(nil)
	_ db.Database          = (*enhanced.LockingAdapter)(nil)
	_ enhanced.LockManager = (*enhanced.EnhancedLockManager)(nil)
)

// The names and types that the specification leaves open and code relies on.
var (
	_ = enhanced.LockError{Code: enhanced.ErrCodeLockExists, Message: ""}
	_ = enhanced.EnhancedLockRequest{
		ID: "", Resource: enhanced.ResourceIdentifier{}, Priority: 0, Timeout: time.Second, Metadata: map[string]string{},
		RequestedAt: time.Time{}, Project: models.Project{}, Workspace: "", User: models.User{}, Pull: &models.PullRequest{},
	}
	_ = enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeProject, Namespace: "", Path: "", Name: "", Workspace: ""}
	_ = enhanced.EnhancedLock{
		ID: "", Resource: enhanced.ResourceIdentifier{}, State: enhanced.LockStateAcquired, Priority: 0, Owner: "",
		AcquiredAt: time.Time{}, ExpiresAt: &time.Time{}, Metadata: map[string]string{}, Version: int64(1), OriginalLock: &models.ProjectLock{},
	}
	_ = enhanced.QueueStatus{
		Size: 0, PendingRequests: []*enhanced.EnhancedLockRequest{}, OldestRequest: &time.Time{}, QueuesByPriority: map[enhanced.Priority]int{},
	}
	_ = enhanced.LockEvent{
		Type: "", LockID: "", Resource: enhanced.ResourceIdentifier{}, Owner: "", Timestamp: time.Time{}, Metadata: map[string]string{},
	}
	_ = []enhanced.ResourceType{enhanced.ResourceTypeWorkspace, enhanced.ResourceTypeGlobal, enhanced.ResourceTypeCustom}
	_ = []enhanced.LockState{enhanced.LockStatePending, enhanced.LockStateExpired, enhanced.LockStateReleased}
	_ = []string{
		enhanced.ErrCodeLockNotFound, enhanced.ErrCodeLockExpired, enhanced.ErrCodeTimeout, enhanced.ErrCodeQueueFull,
		enhanced.ErrCodeDeadlock, enhanced.ErrCodeBackendError, enhanced.ErrCodeInvalidRequest, enhanced.ErrCodePermissionDenied,
	}
	_ = [4]struct{}{enhanced.PriorityLow: {}, enhanced.PriorityNormal: {}, enhanced.PriorityHigh: {}, enhanced.PriorityCritical: {}}
)
