package zz

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/pprof"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
)

const repo = "some-organisation-of-length/terraform-infrastructure-live-60ch"

func lock(r, i int) models.ProjectLock {
	full := fmt.Sprintf("%s%d", repo, r)
	return models.ProjectLock{
		Project: models.NewProject(full, fmt.Sprintf("environments/production/eu-west-1/vpc%05d", i), ""), Workspace: "default",
		User: models.User{Username: "ann"}, Time: time.Now(),
		Pull: models.PullRequest{Num: i + 1, HeadCommit: "0123456789abcdef0123456789abcdef01234567", URL: "https://github.com/" + full + "/pull/1", HeadBranch: "feature/abc", BaseBranch: "main", Author: "ann", BaseRepo: models.Repo{
			FullName: full, Owner: "some-organisation-of-length", Name: "terraform", VCSHost: models.VCSHost{Hostname: "github.com", Type: models.Github},
		}},
	}
}

func TestSpeed(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	callers, _ := strconv.Atoi(os.Getenv("CALLERS"))
	mirror := os.Getenv("MIRROR") == "1"
	config := enhanced.DefaultConfig()
	config.Enabled = true
	config.PreserveLegacyFormat = mirror
	client := server.Client()
	if a := os.Getenv("REDISADDR"); a != "" {
		client = redis.NewClient(&redis.Options{Addr: a})
	}
	b := backends.NewRedisBackend(client, config, nil)
	defer b.Close()
	m := enhanced.NewEnhancedLockManager(b, config, nil)
	a := enhanced.NewLockingAdapter(m, b, config, nil, nil)
	_ = a
	dur := 3 * time.Second
	ops := 0
	if v := os.Getenv("OPS"); v != "" {
		ops, _ = strconv.Atoi(v)
		dur = time.Hour
	}
	var wg sync.WaitGroup
	lats := make([][]time.Duration, callers)
	if p := os.Getenv("PROF"); p != "" {
		f, _ := os.Create(p)
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	pid, _ := client.Info(context.Background(), "server").Result()
	_, rest, _ := strings.Cut(pid, "process_id:")
	ps, _, _ := strings.Cut(rest, "\r\n")
	cpu0 := cpuOf(ps)
	var ru0, ru1 syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru0)
	start := time.Now()
	for c := range callers {
		wg.Go(func() {
			l := lock(c%50, c)
			for k := 0; time.Since(start) < dur && (ops == 0 || k < ops/callers); k++ {
				s := time.Now()
				ok, _, err := a.TryLock(l)
				if !ok || err != nil {
					t.Error(ok, err)
					return
				}
				lats[c] = append(lats[c], time.Since(s))
				s = time.Now()
				if _, err := a.Unlock(l.Project, l.Workspace); err != nil {
					t.Error(err)
					return
				}
				lats[c] = append(lats[c], time.Since(s))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru1)
	cpu1 := cpuOf(ps)
	if os.Getenv("STATS") != "" {
		info, _ := client.Info(context.Background(), "commandstats").Result()
		fmt.Println(info)
	}
	if os.Getenv("SHUT") != "" {
		b.Close()
		client.ShutdownNoSave(context.Background())
		time.Sleep(3 * time.Second)
	}
	var all []time.Duration
	for _, l := range lats {
		all = append(all, l...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	n := len(all)
	cc := time.Duration(ru1.Utime.Nano()+ru1.Stime.Nano()-ru0.Utime.Nano()-ru0.Stime.Nano()) * time.Nanosecond
	fmt.Printf("callers %d mirror %v: %.0f pairs/s p50 %v p95 %v p99 %v; per op: client cpu %v server cpu %v\n", callers, mirror, float64(n)/2/took.Seconds(), all[n/2], all[n*95/100], all[n*99/100], cc/time.Duration(n), (cpu1-cpu0)/time.Duration(n))
}

func cpuOf(pid string) time.Duration {
	out, _ := exec.Command("cat", "/proc/"+pid+"/stat").Output()
	f := strings.Fields(string(out[strings.LastIndex(string(out), ")"):]))
	u, _ := strconv.Atoi(f[12])
	s, _ := strconv.Atoi(f[11])
	return time.Duration(u+s) * 10 * time.Millisecond
}

var _ = redis.Nil
