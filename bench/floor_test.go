package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// anyNumber is what redis-benchmark replaces by a number of 12 digits
// (https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/benchmarks/).
const anyNumber = "__rand_int__"

// BenchmarkFloor is what the server does with our scripts when nothing of ours
// is beside it: redis-benchmark sends the commands that the backend sends for one
// acquire and for one release, each of any lock of a repository that has many.
// It has one thread, and sends each decision in a command of its own.
func BenchmarkFloor(b *testing.B) {
	server := startServer(b)
	f := &floor{addr: server.Addr, admin: server.Client()}
	f.prepare(b, redis.NewClient(server.Options()))
	for pipelined, callers := range map[int][]int{1: {1, 16, 128, 1024}, 16: {1, 16, 128}} {
		for _, callers := range callers {
			b.Run(fmt.Sprintf("pipelined=%d/callers=%d", pipelined, callers), func(b *testing.B) {
				f.measure(b, callers, pipelined)
			})
		}
	}
}

type floor struct {
	addr             string
	admin            *redis.Client
	acquire, release []string // commands
	keys             []string // of the repository
	log              string   // one of them
}

// prepare has the backend hold locks, and sees what it sends.
func (f *floor) prepare(b *testing.B, client *redis.Client) {
	b.Helper()
	ctx := context.Background()
	var seen lastScript
	client.AddHook(&seen)
	defer client.Close()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false // each random number is another: stock's key would name another lock
	backend := backends.NewRedisBackend(client, config, nil)
	defer backend.Close()
	request := func(number string) *enhanced.EnhancedLockRequest {
		r := newRequest(numbered(number))
		r.ID = "0123456789-" + number
		return r
	}
	var done sync.WaitGroup
	for caller := range 128 {
		done.Go(func() {
			for i := caller; i < heldLocks(); i += 128 {
				if _, _, err := backend.TryAcquireLock(ctx, request(fmt.Sprintf("%012d", i))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	done.Wait()
	lock, err := backend.AcquireLock(ctx, request(anyNumber))
	if err != nil {
		b.Fatal(err)
	}
	f.acquire = seen.command()
	if _, err := backend.Release(ctx, enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner}); err != nil {
		b.Fatal(err)
	}
	f.release = seen.command()
	if slices.Equal(f.acquire, f.release) || len(f.release) == 0 {
		b.Fatalf("the backend sends %q", f.release)
	}
	count, err := strconv.Atoi(f.acquire[2])
	if err != nil {
		b.Fatal(err)
	}
	for _, key := range f.acquire[3 : 3+count] {
		if f.admin.Type(ctx, key).Val() == "stream" {
			f.log = key
		}
		if copied, err := f.admin.Copy(ctx, key, key+"-kept", 0, true).Result(); err != nil {
			b.Fatal(err)
		} else if copied == 1 {
			f.keys = append(f.keys, key)
		}
	}
}

func numbered(number string) models.ProjectLock {
	lock := newLock(0, 1)
	// As long as other locks' paths.
	lock.Project = models.NewProject(lock.Project.RepoFullName, "environments/production/euw/"+number, "")
	return lock
}

// restore brings back the repository as it was prepared.
func (f *floor) restore(b *testing.B) {
	b.Helper()
	for _, key := range f.keys {
		if err := f.admin.Copy(context.Background(), key+"-kept", key, 0, true).Err(); err != nil {
			b.Fatal(err)
		}
	}
}

// measure reports redis-benchmark's own figures: one operation of the benchmark
// is a run of it, which takes a while to connect. Releases are of any lock, so
// some find that it is released already, which costs less: one in twenty, since
// the locks are brought back after a tenth of them.
func (f *floor) measure(b *testing.B, callers, pipelined int) {
	b.Helper()
	each := heldLocks() / 10
	var used usage
	run := func(into *sum, command []string, numbers int) {
		f.restore(b)
		length := f.admin.XLen(context.Background(), f.log).Val()
		before := usageOf(b, []*redis.Client{f.admin})[0]
		into.add(each, f.run(b, each, callers, pipelined, numbers, command))
		used = used.and(usageOf(b, []*redis.Client{f.admin})[0].since(before))
		if done := int(f.admin.XLen(context.Background(), f.log).Val() - length); done < each*4/5 {
			b.Fatalf("%d of %d commands changed something", done, each)
		}
	}
	var acquires, releases sum
	for range b.N {
		run(&acquires, f.acquire, 1_000_000_000)
		run(&releases, f.release, heldLocks())
	}
	pairs := float64(b.N * each)
	seconds := acquires.seconds + releases.seconds
	b.ReportMetric(1e9*seconds/pairs, "ns/op")
	b.ReportMetric(pairs/acquires.seconds, "acquires/s")
	b.ReportMetric(pairs/releases.seconds, "releases/s")
	b.ReportMetric(pairs/seconds, "pairs/s")
	for i, p := range []int{50, 95, 99} {
		b.ReportMetric(acquires.latencies[i]/pairs*1e6, fmt.Sprintf("p%d-ns", p))
	}
	b.ReportMetric(float64((acquires.cpu+releases.cpu).Nanoseconds())/pairs, "client-cpu-ns/op")
	reportServers(b, []usage{used}, pairs)
}

// result is what redis-benchmark says.
type result struct {
	perSecond float64
	latencies [3]float64 // in milliseconds
	cpu       time.Duration
}

// sum is of results, of which each counts as often as it has commands.
type sum struct {
	seconds   float64
	latencies [3]float64
	cpu       time.Duration
}

func (s *sum) add(n int, r result) {
	s.seconds += float64(n) / r.perSecond
	s.cpu += r.cpu
	for i := range s.latencies {
		s.latencies[i] += float64(n) * r.latencies[i]
	}
}

// run has redis-benchmark send n commands.
func (f *floor) run(b *testing.B, n, callers, pipelined, numbers int, command []string) result {
	b.Helper()
	host, port, err := net.SplitHostPort(f.addr)
	if err != nil {
		b.Fatal(err)
	}
	args := []string{
		"-h", host, "-p", port, "-n", strconv.Itoa(n), "-c", strconv.Itoa(callers),
		"-P", strconv.Itoa(pipelined), "-r", strconv.Itoa(numbers), "--csv",
	}
	process := exec.CommandContext(b.Context(), "redis-benchmark", append(args, command...)...)
	output, err := process.Output()
	if err != nil {
		b.Fatalf("%v; on Debian redis-benchmark is in redis-tools", err)
	}
	// The last line is the command, which may have quotes, and then commands per
	// second and latencies: average, minimum, p50, p95, p99, maximum.
	fields := bytes.Split(bytes.Trim(bytes.TrimSpace(output), `"`), []byte(`","`))
	if len(fields) < 8 {
		b.Fatalf("redis-benchmark said %q", output)
	}
	fields = fields[len(fields)-7:]
	r := result{perSecond: number(b, string(fields[0])), cpu: process.ProcessState.UserTime() + process.ProcessState.SystemTime()}
	for i := range r.latencies {
		r.latencies[i] = number(b, string(fields[3+i]))
	}
	return r
}

// lastScript is a hook that keeps the last script call for a lock with anyNumber:
// the backend's other calls are not about one.
type lastScript struct {
	mu    sync.Mutex // protects texts
	texts []string
}

func (l *lastScript) keep(cmds ...redis.Cmder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cmd := range cmds {
		if cmd.Name() != "evalsha" {
			continue
		}
		texts := make([]string, len(cmd.Args()))
		for i, arg := range cmd.Args() {
			switch arg := arg.(type) {
			case *string:
				texts[i] = *arg
			case []byte:
				texts[i] = string(arg)
			default:
				texts[i] = fmt.Sprint(arg)
			}
		}
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, anyNumber) }) {
			l.texts = texts
		}
	}
}

// command is the call.
func (l *lastScript) command() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.texts
}

// DialHook implements [redis.Hook].
func (l *lastScript) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (l *lastScript) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		l.keep(cmd)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (l *lastScript) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		l.keep(cmds...)
		return next(ctx, cmds)
	}
}
