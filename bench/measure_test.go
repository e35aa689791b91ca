package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
)

// slow is from when on a server's SLOWLOG has a command.
const slow = time.Millisecond

func startServer(b *testing.B) *redistest.Server {
	b.Helper()
	return redistest.Start(b, redistest.Options{Args: []string{
		"--slowlog-log-slower-than", strconv.FormatInt(slow.Microseconds(), 10), "--slowlog-max-len", "1000",
	}})
}

// pair is one acquire and release of a caller; it says how long the first took.
type pair func(caller int) (time.Duration, error)

// pairOf has each caller take and release its lock.
func pairOf(take acquire, lock func(caller int) models.ProjectLock) pair {
	ctx := context.Background()
	return func(caller int) (time.Duration, error) {
		start := time.Now()
		release, err := take(ctx, lock(caller))
		if err != nil {
			return 0, err
		}
		return time.Since(start), release()
	}
}

// measure has callers share b.N pairs, and reports what a pair costs.
func measure(b *testing.B, servers []*redis.Client, callers int, one pair) {
	b.Helper()
	for caller := range min(callers, 64) { // connections and scripts are there
		if _, err := one(caller); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC() // no candidate pays for what the one before has left
	for _, server := range servers {
		if err := server.SlowLogReset(context.Background()).Err(); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	latencies := make([][]time.Duration, callers)
	var done sync.WaitGroup
	serversBefore, before := usageOf(b, servers), cpu(b)
	b.ReportAllocs()
	b.ResetTimer()
	for caller := range callers {
		done.Go(func() {
			for next.Add(1) <= int64(b.N) {
				latency, err := one(caller)
				if err != nil {
					b.Error(err)
					return
				}
				latencies[caller] = append(latencies[caller], latency)
			}
		})
	}
	done.Wait()
	b.StopTimer()
	client, n := cpu(b)-before, float64(b.N)
	used := usageOf(b, servers)
	for i := range used {
		used[i] = used[i].since(serversBefore[i])
	}
	b.ReportMetric(n/b.Elapsed().Seconds(), "pairs/s")
	reportLatencies(b, slices.Concat(latencies...))
	b.ReportMetric(float64(client.Nanoseconds())/n, "client-cpu-ns/op")
	reportServers(b, used, n)
	b.ReportMetric(float64(longest(b, servers).Nanoseconds()), "longest-ns")
}

// reportLatencies reports how long an acquire took.
func reportLatencies(b *testing.B, all []time.Duration) {
	b.Helper()
	if len(all) == 0 {
		return // it has failed
	}
	slices.Sort(all)
	for _, p := range []int{50, 95, 99} {
		b.ReportMetric(float64(all[len(all)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
	}
}

// reportServers reports what n pairs cost all servers, and the busiest.
func reportServers(b *testing.B, used []usage, n float64) {
	b.Helper()
	var total usage
	var busiest time.Duration
	for _, u := range used {
		total = total.and(u)
		busiest = max(busiest, u.cpu)
	}
	b.ReportMetric(float64(total.cpu.Nanoseconds())/n, "server-cpu-ns/op")
	b.ReportMetric(float64(total.script.Nanoseconds())/n, "script-ns/op")
	b.ReportMetric(float64(total.in)/n, "received-B/op")
	b.ReportMetric(float64(total.out)/n, "sent-B/op")
	if len(used) > 1 {
		b.ReportMetric(float64(busiest.Nanoseconds())/n, "busiest-cpu-ns/op")
	}
}

// usage is what a server has used since it was started.
type usage struct {
	cpu     time.Duration
	script  time.Duration // of scripts, with the commands that they call
	in, out int64         // bytes
}

func (u usage) and(other usage) usage {
	return usage{u.cpu + other.cpu, u.script + other.script, u.in + other.in, u.out + other.out}
}

func (u usage) since(before usage) usage {
	return usage{u.cpu - before.cpu, u.script - before.script, u.in - before.in, u.out - before.out}
}

// usageOf asks the servers (https://redis.io/docs/latest/commands/info/).
func usageOf(b *testing.B, servers []*redis.Client) []usage {
	b.Helper()
	all := make([]usage, len(servers))
	for i, server := range servers {
		info, err := server.InfoMap(context.Background(), "cpu", "stats", "commandstats").Result()
		if err != nil {
			b.Fatal(err)
		}
		seconds := number(b, info["CPU"]["used_cpu_user"]) + number(b, info["CPU"]["used_cpu_sys"])
		all[i] = usage{
			cpu: time.Duration(seconds * float64(time.Second)),
			in:  int64(number(b, info["Stats"]["total_net_input_bytes"])),
			out: int64(number(b, info["Stats"]["total_net_output_bytes"])),
		}
		for _, command := range []string{"cmdstat_eval", "cmdstat_evalsha"} {
			// calls=1,usec=2,...
			if _, rest, found := strings.Cut(info["Commandstats"][command], "usec="); found {
				micros, _, _ := strings.Cut(rest, ",")
				all[i].script += time.Duration(number(b, micros)) * time.Microsecond
			}
		}
	}
	return all
}

func number(b *testing.B, text string) float64 {
	b.Helper()
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// longest is how long the servers' longest command took, 0 if none was slow.
func longest(b *testing.B, servers []*redis.Client) time.Duration {
	b.Helper()
	longest := time.Duration(0)
	for _, server := range servers {
		entries, err := server.SlowLogGet(context.Background(), -1).Result()
		if err != nil {
			b.Fatal(err)
		}
		for _, entry := range entries {
			longest = max(longest, entry.Duration)
		}
	}
	return longest
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
