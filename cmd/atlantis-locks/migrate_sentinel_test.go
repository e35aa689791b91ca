package main

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// What is migrated to the servers of a Sentinel set is migrated from them by the same
// URL when another one of them is the primary.
func TestMigrateSentinel(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinel(t, redistest.Options{})
	var sentinels []string
	for _, sentinel := range set.Sentinels {
		sentinels = append(sentinels, sentinel.Addr)
	}
	ours := &place{url: "redis://" + strings.Join(sentinels, ",") + "?sentinel-master=" + redistest.SentinelMaster, client: set.Client()}
	from, back := filePlace(t), filePlace(t)
	fillStock(t, from)
	report, _ := migrate(t, 0, "--from", from.url, "--to", ours.url)
	require.EqualValues(t, stockLocks, report.Locks.Taken)
	require.True(t, report.Compared)
	ours.inOurs(t, func(a *enhanced.LockingAdapter) { requireStock(t, a) })

	// The replicas have all when they have what comes last.
	primary := set.Primary.Client().Conn()
	require.NoError(t, primary.Set(t.Context(), "last", "1", 0).Err())
	confirmed, err := primary.Wait(t.Context(), len(set.Replicas), 30*time.Second).Result()
	require.NoError(t, err)
	require.EqualValues(t, len(set.Replicas), confirmed)
	require.NoError(t, primary.Close())
	sentinel := redis.NewSentinelClient(set.Sentinels[0].Options())
	defer sentinel.Close() //nolint:errcheck // it was only asked
	require.Eventually(t, func() bool {
		return sentinel.Failover(t.Context(), redistest.SentinelMaster).Err() == nil
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		current, err := set.Current(t.Context())
		return err == nil && current != set.Primary.Addr
	}, time.Minute, 50*time.Millisecond)

	report, _ = migrate(t, 0, "--from", ours.url, "--to", back.url)
	require.EqualValues(t, stockLocks, report.Locks.Taken)
	back.inOurs(t, func(a *enhanced.LockingAdapter) { requireStock(t, a) })
}
