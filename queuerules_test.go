package enhanced_test

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

func TestTheFirstRuleThatFitsGivesThePriority(t *testing.T) {
	t.Parallel()
	config := enhanced.DefaultConfig()
	config.PriorityRules = []enhanced.PriorityRule{
		{Path: "envs/prod/**", User: "release-bot", Priority: "critical"},
		{Path: "envs/{prod,stage}/**", Priority: "high"},
		{Repository: "acme/*", Workspace: "scratch", Priority: "low"},
		{User: "release-bot", Priority: "high"},
	}
	require.NoError(t, config.Validate())
	for name, c := range map[string]struct {
		repository, path, workspace, user string
		priority                          enhanced.Priority
		rule                              int
	}{
		"first":                      {"acme/infra", "envs/prod/db", "default", "release-bot", enhanced.PriorityCritical, 1},
		"the directory itself":       {"acme/infra", "envs/prod", "default", "release-bot", enhanced.PriorityCritical, 1},
		"another user":               {"acme/infra", "envs/prod/db", "scratch", "ann", enhanced.PriorityHigh, 2},
		"alternatives":               {"other/app", "envs/stage/a/b", "default", "ann", enhanced.PriorityHigh, 2},
		"repository and workspace":   {"acme/infra", ".", "scratch", "ann", enhanced.PriorityLow, 3},
		"a star stays within a part": {"acme/sub/infra", ".", "scratch", "ann", enhanced.PriorityNormal, 0},
		"user":                       {"other/app", ".", "default", "release-bot", enhanced.PriorityHigh, 4},
		"none":                       {"other/app", "envs/production", "default", "ann", enhanced.PriorityNormal, 0},
	} {
		priority, rule := config.PriorityFor(enhanced.ProjectResource(models.NewProject(c.repository, c.path, ""), c.workspace), c.user)
		require.Equal(t, c.priority, priority, name)
		require.Equal(t, c.rule, rule, name)
	}
}

func TestRulesAreChecked(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(c *enhanced.EnhancedConfig){
		`queue_for 1: path "[" is no glob`: func(c *enhanced.EnhancedConfig) { c.QueueFor = []enhanced.QueueScope{{Path: "["}} },
		`priority_rules 1: user "{a" is no glob`: func(c *enhanced.EnhancedConfig) {
			c.PriorityRules = []enhanced.PriorityRule{{User: "{a", Priority: "low"}}
		},
		`priority_rules 1: priority "urgent" is none of`: func(c *enhanced.EnhancedConfig) { c.PriorityRules = []enhanced.PriorityRule{{Priority: "urgent"}} },
		"queue_for: 1 scopes need enable_priority_queue": func(c *enhanced.EnhancedConfig) {
			c.EnablePriorityQueue, c.QueueFor = false, []enhanced.QueueScope{{}}
		},
	} {
		config := enhanced.DefaultConfig()
		config.EnablePriorityQueue = true
		change(config)
		require.ErrorContains(t, config.Validate(), want)
	}
}

func TestRulesAreCopied(t *testing.T) {
	t.Parallel()
	config := enabled()
	config.EnablePriorityQueue = true
	config.PriorityRules = []enhanced.PriorityRule{{Priority: "high"}}
	config.QueueFor = []enhanced.QueueScope{{User: "bob"}}
	manager := newManager(t, config)
	config.PriorityRules[0].Priority, config.QueueFor[0].User = "low", "alice"
	explained, err := manager.ExplainPriority(resource("a"), "bob")
	require.NoError(t, err)
	require.Equal(t, enhanced.PriorityExplanation{Priority: enhanced.PriorityHigh, Rule: 1, Queued: true}, explained)
	_, err = manager.ExplainPriority(resource("a\x00"), "bob")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
}

// Rules count for those who name no priority: Lock, LockWithTimeout and Atlantis.
func TestRulesGivePriorities(t *testing.T) {
	t.Parallel()
	config := enabled()
	config.EnablePriorityQueue = true
	config.PriorityRules = []enhanced.PriorityRule{{User: "bob", Priority: "critical"}, {User: "eve", Priority: "low"}}
	backend := newBackend(t, config)
	manager := newManagerOn(t, backend, config)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, nil, nil)
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 3)
	waits := func(n int) []*enhanced.EnhancedLockRequest {
		var status *enhanced.QueueStatus
		backendtest.Eventually(t, "it waits", func() bool {
			status, err = backend.GetQueueStatus(t.Context())
			require.NoError(t, err)
			return status.Size == n
		})
		return status.PendingRequests
	}
	eve := models.User{Username: "eve"}
	go func() { _, err := manager.LockWithTimeout(ctx, project("a"), workspace, eve, time.Hour); done <- err }()
	waits(1)
	go func() {
		_, err := manager.LockWithPriority(ctx, project("a"), workspace, models.User{Username: "kim"}, enhanced.PriorityHigh)
		done <- err
	}()
	waits(2)
	go func() { _, err := manager.Lock(ctx, project("a"), workspace, bob()); done <- err }()
	waits(3)
	lock := pullLock(6, "a")
	lock.User = bob()
	_, _, err = adapter.TryLock(lock)
	require.ErrorIs(t, err, enhanced.ErrLockExists, "a user holds it")
	var order []string
	for _, r := range waits(4) {
		order = append(order, r.Owner().Describe()+" "+r.Priority.String())
	}
	require.Equal(t, []string{"user bob critical", "pull request 6 on " + host + " critical", "user kim high", "user eve low"}, order)
	cancel()
	for range 3 {
		require.Error(t, <-done)
	}
}

// Who is not chosen uses no queue: what is held is refused, and nothing is left.
func TestQueueForSome(t *testing.T) {
	t.Parallel()
	config := enabled()
	config.EnablePriorityQueue = true
	config.QueueFor = []enhanced.QueueScope{{Path: "chosen/**"}, {User: "bob"}}
	backend := newBackend(t, config)
	manager := newManagerOn(t, backend, config)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, nil, nil)
	waiting := func() int {
		status, err := backend.GetQueueStatus(t.Context())
		require.NoError(t, err)
		return status.Size
	}
	for _, path := range []string{"a", "chosen/a"} {
		acquired, _, err := adapter.TryLock(pullLock(5, path))
		require.NoError(t, err)
		require.True(t, acquired)
	}
	acquired, _, err := adapter.TryLock(pullLock(6, "a"))
	require.NoError(t, err)
	require.False(t, acquired)
	_, err = manager.Lock(t.Context(), project("a"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrLockExists)
	require.Zero(t, waiting())

	acquired, _, err = adapter.TryLock(pullLock(6, "chosen/a"))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, 1, waiting())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := manager.Lock(ctx, project("a"), workspace, bob()); done <- err }()
	backendtest.Eventually(t, "bob waits", func() bool { return waiting() == 2 })
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	// Elsewhere a closed pull request is stock's.
	config.QueueFor = []enhanced.QueueScope{{Repository: "other/*"}}
	require.NoError(t, adapter.UpdateConfiguration(config))
	closed := pullLock(7, "b")
	require.NoError(t, adapter.DeletePullStatus(closed.Pull))
	acquired, _, err = adapter.TryLock(closed)
	require.NoError(t, err)
	require.True(t, acquired)
}
