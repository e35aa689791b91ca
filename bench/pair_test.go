package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
)

var errHeld = errors.New("held by another")

// repositories is over how many repositories callers are spread.
const repositories = 50

// BenchmarkPair takes and releases locks that nobody else wants, each caller its
// own.
func BenchmarkPair(b *testing.B) {
	for _, callers := range []int{1, 16, 128, 1024} {
		for _, name := range slices.Sorted(keys(candidates())) {
			b.Run(fmt.Sprintf("callers=%d/store=%s", callers, name), func(b *testing.B) {
				server := redistest.Start(b, redistest.Options{})
				client := redis.NewClient(server.Options())
				defer client.Close()
				measure(b, server, callers, candidates()[name](b, client))
			})
		}
	}
}

func keys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

// measure has callers share b.N pairs, and reports what they cost.
func measure(b *testing.B, server *redistest.Server, callers int, take acquire) {
	b.Helper()
	ctx := context.Background()
	pair := func(caller int) (first, second time.Duration, err error) {
		start := time.Now()
		release, err := take(ctx, newLock(caller%repositories, caller))
		if err != nil {
			return 0, 0, err
		}
		middle := time.Now()
		err = release()
		return middle.Sub(start), time.Since(middle), err
	}
	for caller := range min(callers, 64) { // connections and scripts are there
		if _, _, err := pair(caller); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	latencies := make([][]time.Duration, callers)
	var done sync.WaitGroup
	before, serverBefore := cpu(b), server.CPU()
	b.ReportAllocs()
	b.ResetTimer()
	for caller := range callers {
		done.Go(func() {
			for next.Add(1) <= int64(b.N) {
				first, second, err := pair(caller)
				if err != nil {
					b.Error(err)
					return
				}
				latencies[caller] = append(latencies[caller], first, second)
			}
		})
	}
	done.Wait()
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "pairs/s")
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/n, "client-cpu-ns/op")
	b.ReportMetric(float64((server.CPU()-serverBefore).Nanoseconds())/n, "server-cpu-ns/op")
	all := slices.Concat(latencies...)
	slices.Sort(all)
	for _, p := range []int{50, 95, 99} {
		b.ReportMetric(float64(all[len(all)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
