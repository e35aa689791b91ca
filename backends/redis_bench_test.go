package backends_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// BenchmarkRedisLongestCommand is how long a server answers nobody else while
// operations on many locks of one repository run, with stock's copies written.
func BenchmarkRedisLongestCommand(b *testing.B) {
	const held, ofPull = 100_000, 5_000
	server := redistest.Start(b, redistest.Options{Args: []string{"--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000"}})
	admin := server.Client()
	client := redis.NewClient(server.Options())
	defer client.Close()
	ours := backends.NewRedisBackend(client, nil, nil)
	defer ours.Close()
	ctx := b.Context()
	take := func(from, to, pull int, lease time.Duration) {
		together(64, func(caller int) {
			for i := from + caller; i < to; i += 64 {
				r := request(stockLock("org/app", pull, "p"+strconv.Itoa(i)))
				r.Timeout = lease
				if _, err := ours.AcquireLock(ctx, r); err != nil {
					b.Error(err)
				}
			}
		})
	}
	take(0, held, 1, enhanced.NoTimeout)
	for name, operation := range map[string]func() error{
		"list":  func() error { _, err := ours.ListLocks(ctx); return err },
		"stats": func() error { _, err := ours.GetStats(ctx); return err },
		"verify": func() error {
			found, err := ours.Verify(ctx)
			if err == nil && len(found) > 0 {
				err = fmt.Errorf("%v", found[0])
			}
			return err
		},
		"release-by-pull": func() error { _, err := ours.ReleaseByPull(ctx, "org/app", 2, enhanced.SystemAtlantis); return err },
		"clean-up":        func() error { _, err := ours.CleanupExpiredLocks(ctx); return err },
	} {
		b.Run("operation="+name, func(b *testing.B) {
			longest := time.Duration(0)
			for b.Loop() {
				b.StopTimer()
				switch name {
				case "release-by-pull":
					take(held, held+ofPull, 2, enhanced.NoTimeout)
				case "clean-up":
					take(held, held+ofPull, 3, time.Millisecond)
				}
				require.NoError(b, admin.Do(ctx, "slowlog", "reset").Err())
				b.StartTimer()
				require.NoError(b, operation())
				b.StopTimer()
				entries, err := admin.SlowLogGet(ctx, -1).Result()
				require.NoError(b, err)
				for _, entry := range entries {
					if entry.Args[0] != "slowlog" {
						longest = max(longest, entry.Duration)
					}
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(longest.Microseconds()), "longest-µs")
		})
	}
}
