package bench

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// TestMain says what is measured on what, as configuration lines of the
// benchmark format (https://go.dev/design/14313-benchmark-format).
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		for _, line := range environment() {
			fmt.Println(line)
		}
	}
	os.Exit(m.Run())
}

func environment() []string {
	lines := []string{
		"go: " + strings.TrimPrefix(runtime.Version(), "go"),
		fmt.Sprint("cores: ", runtime.NumCPU()),
	}
	// Redis server v=7.0.15 ...
	if output, err := exec.Command("redis-server", "--version").Output(); err == nil {
		for _, word := range strings.Fields(string(output)) {
			if version, found := strings.CutPrefix(word, "v="); found {
				lines = append(lines, "redis: "+version)
			}
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		lines = append(lines, "kernel: "+string(bytes.TrimSpace(release)))
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		lines = append(lines, "load: "+strings.Join(strings.Fields(string(load))[:3], " "))
	}
	output, err := exec.Command("go", append([]string{"list", "-m", "-f", "{{.Path}} {{.Version}}"}, modules()...)...).Output()
	if err == nil {
		for line := range strings.Lines(string(output)) {
			path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
			lines = append(lines, "module-"+strings.ReplaceAll(path, "/", "-")+": "+path+" "+version)
		}
	}
	return lines
}

// modules are what ours is compared with, and the client that most of it uses.
func modules() []string {
	return []string{
		"github.com/bsm/redislock", "github.com/go-redsync/redsync/v4", "github.com/redis/go-redis/v9",
		"github.com/redis/rueidis", "github.com/runatlantis/atlantis", "go.etcd.io/etcd/server/v3",
	}
}
