package backends_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// circle has ann hold org/app and wait for another repository's or path's lock that
// bob holds, and bob the other way round. It returns what their calls answer.
func circle(t *testing.T, b enhanced.Backend, ann, bob [2]string) (annWaits, bobWaits <-chan error) {
	t.Helper()
	_, err := b.AcquireLock(t.Context(), by(ann[0], ann[1], "ann"))
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), by(bob[0], bob[1], "bob"))
	require.NoError(t, err)
	return waits(t, b, by(bob[0], bob[1], "ann")), waits(t, b, by(ann[0], ann[1], "bob"))
}

// ending takes an owner out of the only deadlock of a store.
func ending(t *testing.T, b *backends.RedisBackend, victim string) enhanced.DeadlockEnding {
	t.Helper()
	graph, err := b.WaitForGraph(t.Context())
	require.NoError(t, err)
	cycles := graph.Cycles()
	require.Len(t, cycles, 1)
	for i, e := range cycles[0] {
		if e.Owner == victim {
			return enhanced.DeadlockEnding{Cycle: cycles[0], Victim: &cycles[0][i].Waiter, Policy: enhanced.PolicyOldest, ReleaseHeld: true}
		}
	}
	t.Fatalf("%s is not in %v", victim, cycles[0])
	return enhanced.DeadlockEnding{}
}

// A cycle over repositories is ended in the victim's, and what it holds in another
// one is released after that.
func TestRedisDeadlockOverRepositories(t *testing.T) {
	t.Parallel()
	b := openRedis(t, redistest.Start(t, redistest.Options{}).Client(), preventingOn())
	ann, bob := circle(t, b, [2]string{"org/app", "."}, [2]string{"org/infra", "."})
	end := ending(t, b, "user:ann")
	report, err := b.EndDeadlock(t.Context(), end)
	require.NoError(t, err)
	require.Equal(t, enhanced.DeadlockVictim, report.Outcome)
	require.ErrorIs(t, <-ann, enhanced.ErrDeadlock)
	require.NoError(t, <-bob)
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "", time.Time{})
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, "org/infra", records[0].Resource.Namespace)
	require.Equal(t, report.Cycle, records[0].Deadlock.Cycle)
	page, err := b.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	forced := page.Records[len(page.Records)-2]
	require.Equal(t, enhanced.CauseForced, forced.Cause)
	require.Contains(t, forced.Reason, "oldest")
	again, err := b.EndDeadlock(t.Context(), end)
	require.NoError(t, err)
	require.Nil(t, again)

	// A wait in the other repository that has gone ends it, too.
	b = openRedis(t, redistest.Start(t, redistest.Options{}).Client(), queueOn())
	_, bob = circle(t, b, [2]string{"org/app", "."}, [2]string{"org/infra", "."})
	end = ending(t, b, "user:ann")
	require.NoError(t, b.CancelRequest(t.Context(), by("org/app", ".", "").Resource.Normalized(), "user:bob", "user:admin"))
	require.Error(t, <-bob)
	again, err = b.EndDeadlock(t.Context(), end)
	require.NoError(t, err)
	require.Nil(t, again)
	require.Equal(t, 1, waiting(t, b))
}

// A victim that misses the message learns of it by itself.
func TestRedisDeadlockWithoutPubSub(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	client := muteClient(t, server)
	config := queueOn()
	config.WaiterLiveness = time.Second // so that it looks often
	ann, bob := circle(t, openRedis(t, client, config), [2]string{"org/app", "vpc"}, [2]string{"org/app", "db"})
	b := openRedis(t, server.Client(), config)
	_, err := b.EndDeadlock(t.Context(), ending(t, b, "user:ann"))
	require.NoError(t, err)
	err = <-ann
	require.ErrorIs(t, err, enhanced.ErrDeadlock)
	require.ErrorContains(t, err, "held by user bob")
	require.NoError(t, <-bob)
}

// A primary fails between a look and what it leads to. The deadlock is ended once.
func TestRedisDeadlockAndFailover(t *testing.T) {
	t.Parallel()
	if backendtest.Rounds(2) != 2 {
		t.Skipf("the fail-over takes long; set %s=1", backendtest.FullRounds)
	}
	servers := redistest.StartSentinel(t, redistest.Options{})
	config := queueOn()
	config.WaiterLiveness = time.Minute // the fail-over takes a while
	b := openRedis(t, servers.Client(), config)
	ann, bob := circle(t, b, [2]string{"org/app", "vpc"}, [2]string{"org/app", "db"})
	end := ending(t, b, "user:ann")
	for _, replica := range servers.Replicas {
		client := replica.Client()
		backendtest.Eventually(t, "a replica has the waiters", func() bool {
			return countOf(t.Context(), client, repositoryKey("org/app", "state"), "waiters") == "2"
		})
	}
	servers.Primary.Kill()
	ended := 0
	backendtest.Eventually(t, "it is ended", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		report, err := b.EndDeadlock(ctx, end)
		if err == nil && report != nil {
			ended++
		}
		return err == nil
	})
	require.ErrorIs(t, <-ann, enhanced.ErrDeadlock)
	require.NoError(t, <-bob)
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/app", time.Time{})
	require.NoError(t, err)
	require.Len(t, records, 1, "it is ended once, as the answers of %d calls say", ended)
	violations, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

// Only the store's clock counts: with replicas that are an hour ahead of it, and
// behind it, deadlocks are prevented and ended as ever.
func TestRedisDeadlocksAndOtherClocks(t *testing.T) {
	t.Parallel()
	for name, offset := range map[string]time.Duration{"ahead": -time.Hour, "behind": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := redistest.NewClock(t)
			clock.Set(offset)
			client := redistest.Start(t, redistest.Options{Env: clock.Env()}).Client()
			preventing := openRedis(t, client, preventingOn())
			for user, path := range map[string]string{"kim": "k", "lee": "l"} {
				_, err := preventing.AcquireLock(t.Context(), by("org/app", path, user))
				require.NoError(t, err)
			}
			kim := waits(t, preventing, by("org/app", "l", "kim"))
			_, err := preventing.AcquireLock(t.Context(), by("org/app", "k", "lee"))
			require.ErrorIs(t, err, enhanced.ErrDeadlock)
			require.NoError(t, preventing.CancelRequest(t.Context(), by("org/app", "l", "").Resource, "user:kim", "user:admin"))
			require.Error(t, <-kim)

			config := queueOn()
			config.EnableDeadlockDetection, config.DeadlockCheckInterval = true, 20*time.Millisecond
			config.DeadlockReleaseHeld, config.ResolutionPolicy = true, enhanced.PolicyOldest
			b := openRedis(t, client, config)
			ann, bob := circle(t, b, [2]string{"org/app", "vpc"}, [2]string{"org/app", "db"})
			m := enhanced.NewEnhancedLockManager(b, config, nil)
			require.NoError(t, m.Start(t.Context()))
			require.ErrorIs(t, <-ann, enhanced.ErrDeadlock)
			require.NoError(t, <-bob)
			require.NoError(t, m.Stop(t.Context()))
			records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/app", time.Time{})
			require.NoError(t, err)
			require.Len(t, records, 2)
			require.WithinDuration(t, time.Now().Add(offset), records[1].Time, time.Minute)
			require.WithinDuration(t, records[1].Time, records[1].Deadlock.Cycle[0].Since, time.Minute)
		})
	}
}

// pausedStore has its owner stopped between a look and what that leads to.
type pausedStore struct {
	*backends.RedisBackend
	once sync.Once
	// found is closed when it has looked, goesOn is closed to let it go on.
	found, goesOn chan struct{}
	ended         chan error
}

func (p *pausedStore) EndDeadlock(ctx context.Context, ending enhanced.DeadlockEnding) (report *enhanced.DeadlockReport, err error) {
	p.once.Do(func() {
		close(p.found)
		<-p.goesOn
		report, err = p.RedisBackend.EndDeadlock(context.WithoutCancel(ctx), ending)
		if report != nil {
			err = errors.Join(err, errors.New("it has ended what was ended"))
		}
		p.ended <- err
	})
	return report, err
}

// A manager stops for a long time after it has found a deadlock. The next one, with
// a lease of its own, ends it; when the first one goes on, it does nothing.
func TestRedisDetectorThatPauses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	config := queueOn()
	config.EnableDeadlockDetection, config.DeadlockCheckInterval, config.ResolutionPolicy = true, 20*time.Millisecond, enhanced.PolicyOldest
	b := openRedis(t, server.Client(), config)
	ann, bob := circle(t, b, [2]string{"org/app", "vpc"}, [2]string{"org/app", "db"})
	paused := &pausedStore{RedisBackend: openRedis(t, server.Client(), config), found: make(chan struct{}), goesOn: make(chan struct{}), ended: make(chan error, 1)}
	first := enhanced.NewEnhancedLockManager(paused, config, nil)
	require.NoError(t, first.Start(t.Context()))
	<-paused.found
	lease := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeGlobal, Namespace: "atlantis-locks", Name: "deadlock-detector"}
	before, err := b.LookupLock(t.Context(), lease)
	require.NoError(t, err)

	second := enhanced.NewEnhancedLockManager(b, config, nil)
	require.NoError(t, second.Start(t.Context()))
	require.ErrorIs(t, <-ann, enhanced.ErrDeadlock)
	after, err := b.LookupLock(t.Context(), lease)
	require.NoError(t, err)
	require.Greater(t, after.Version, before.Version)
	close(paused.goesOn)
	require.NoError(t, <-paused.ended)
	require.NoError(t, first.Stop(t.Context()))
	require.NoError(t, second.Stop(t.Context()))
	records, err := enhanced.ReadDeadlocks(t.Context(), b, "org/app", time.Time{})
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Empty(t, bob, "it still waits")
}
