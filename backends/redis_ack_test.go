package backends_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With both replicas frozen nothing is confirmed, whatever connection asks: one
// that has not written would be told otherwise at once.
func TestRedisMinReplicasAck(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.Options{})
	config := enhanced.DefaultConfig()
	config.RedisMinReplicasAck = 2
	// A limit on reads that is below the time that WAIT takes.
	options := sentinel.Primary.Options()
	options.ReadTimeout = 500 * time.Millisecond
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	impatient := new(atomic.Bool)
	client.AddHook(patientReplicas(impatient))
	b := openRedis(t, client, config)
	ctx := t.Context()
	keepIdle(t, client)
	pulled := request(stockLock("org/app", 5, "pulled"))
	_, err := b.AcquireLock(ctx, pulled)
	require.NoError(t, err)
	one := by("org/app", "one", "ann")
	one.ID = "one"
	first, err := b.AcquireLock(ctx, one)
	require.NoError(t, err)
	held, err := b.AcquireLock(ctx, by("org/app", "held", "ann"))
	require.NoError(t, err)
	leased := by("org/app", "leased", "ann")
	leased.Timeout = time.Hour
	lease, err := b.AcquireLock(ctx, leased)
	require.NoError(t, err)

	impatient.Store(true)
	for _, replica := range sentinel.Replicas {
		replica.Signal(redistest.Stop)
	}
	requireUnconfirmed := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown)
		require.ErrorIs(t, err, enhanced.ErrBackend)
		require.ErrorContains(t, err, "0 of 2 replicas confirmed")
	}
	again := by("org/app", "free", "ann")
	again.ID = "again"
	_, err = b.AcquireLock(ctx, again)
	requireUnconfirmed(err)
	// Nobody else gets it meanwhile.
	_, acquired, err := b.TryAcquireLock(ctx, by("org/app", "free", "bob"))
	require.NoError(t, err)
	require.False(t, acquired)
	// What was confirmed before stays, whatever is asked about it now.
	_, _, err = b.TryAcquireLock(ctx, one)
	requireUnconfirmed(err)
	still, err := b.GetLock(ctx, first.ID)
	require.NoError(t, err)
	require.Equal(t, first.Version, still.Version)
	_, err = b.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	requireUnconfirmed(err)
	_, err = b.ReleaseByPull(ctx, "org/app", 5, "user:ann")
	requireUnconfirmed(err)
	_, err = b.LockCommand(command.Apply, time.Now())
	requireUnconfirmed(err)
	// Answers about an earlier step count no more than the step did.
	_, _, err = b.TryAcquireLock(ctx, by("org/app", "held", "ann"))
	requireUnconfirmed(err)
	requireUnconfirmed(b.RefreshLock(ctx, lease.ID, time.Hour))
	requireUnconfirmed(b.TransferLock(ctx, lease.ID, "user:eve"))
	requireUnconfirmed(b.ReleaseLock(ctx, held.ID))
	requireUnconfirmed(b.ReleaseLock(ctx, held.ID))
	// What changes nothing needs no replica.
	_, acquired, err = b.TryAcquireLock(ctx, by("org/app", "leased", "bob"))
	require.NoError(t, err)
	require.False(t, acquired)

	for _, replica := range sentinel.Replicas {
		replica.Signal(redistest.Continue)
	}
	impatient.Store(false)
	backendtest.Eventually(t, "replicas confirm again", func() bool { return b.ReleaseLock(ctx, held.ID) == nil })
	lock, acquired, err := b.TryAcquireLock(ctx, again)
	require.NoError(t, err)
	require.True(t, acquired, "the same request gets what it got")
	require.Equal(t, "user:ann", lock.Owner)
	lock, acquired, err = b.TryAcquireLock(ctx, one)
	require.NoError(t, err)
	require.True(t, acquired)
	require.Equal(t, first.ID, lock.ID)
	_, err = b.AcquireLock(ctx, by("org/app", "held", "bob"))
	require.NoError(t, err)
}

// A node that was not written to confirms nothing on a cluster either.
func TestRedisMinReplicasAckOnCluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 1, redistest.Options{})
	config := enhanced.DefaultConfig()
	config.RedisClusterMode, config.RedisMinReplicasAck = true, 1
	b := openRedis(t, cluster.Client(), config)
	// A new client asks any node where the slots are, and waits for each that is
	// frozen: this one has asked already.
	require.NoError(t, b.HealthCheck(t.Context()))
	for _, replica := range cluster.Nodes[3:] {
		replica.Signal(redistest.Stop)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, repository := range []string{"org/a", "org/b"} {
		_, err := b.AcquireLock(ctx, by(repository, ".", "ann"))
		require.ErrorIs(t, err, enhanced.ErrOutcomeUnknown, repository)
	}
	for _, replica := range cluster.Nodes[3:] {
		replica.Signal(redistest.Continue)
	}
	backendtest.Eventually(t, "replicas confirm", func() bool {
		_, _, err := b.TryAcquireLock(ctx, by("org/a", ".", "ann"))
		return err == nil
	})
}

// The options of a client are not read while another connection of it changes
// them, which go-redis does when the server does not know a command that it
// tries on each new connection. The race detector judges this.
func TestRedisMinReplicasAckLeavesTheOptionsAlone(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.Options{})
	config := enhanced.DefaultConfig()
	config.RedisMinReplicasAck = 1
	client := redis.NewClient(sentinel.Primary.Options())
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	client.AddHook(patientReplicas(new(atomic.Bool)))
	b := backends.NewRedisBackend(client, config, nil)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	require.NoError(t, b.HealthCheck(t.Context()))
	// As for a server that a client has not met yet: a promoted replica.
	client.Options().MaintNotificationsConfig.Mode = maintnotifications.ModeAuto
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			_, err := b.AcquireLock(t.Context(), by("org/app", strconv.Itoa(i), "ann"))
			assert.NoError(t, err)
		})
		callers.Go(func() { assert.NoError(t, client.Ping(t.Context()).Err()) })
	}
	callers.Wait()
}

// keepIdle leaves several connections in the pool that have done nothing but
// this: WAIT on one of them answers at once.
func keepIdle(t *testing.T, client *redis.Client) {
	t.Helper()
	for range 4 {
		conn := client.Conn()
		defer conn.Close()
		require.NoError(t, conn.Ping(t.Context()).Err())
	}
}

// by is a request of a user.
func by(repository, path, user string) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Resource: enhanced.ProjectResource(models.NewProject(repository, path, ""), "default"),
		User:     models.User{Username: user},
	}
}
