package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// crashRun is one process that was killed under load.
type crashRun struct {
	Seed  uint64
	Round int
	// Steps are what it reported.
	Steps []loadStep
	// file is the store as the kill left it: whoever judges it changes it.
	file []byte
}

// Names of what is kept of a run.
const (
	crashFile   = "atlantis.db"
	crashReport = "run.json"
)

// keepUnlessRight calls judge and, if the test has failed then or judge did not
// return, keeps the run in a directory that outlives the test, and names it.
func (r *crashRun) keepUnlessRight(tb testing.TB, judge func()) {
	tb.Helper()
	returned := false
	// A requirement that is not met ends the goroutine.
	defer func() {
		if !returned || tb.Failed() {
			dir, err := r.keep()
			tb.Errorf("seed %d, round %d: the run is kept in %s (%v)", r.Seed, r.Round, dir, err)
		}
	}()
	judge()
	returned = true
}

func (r *crashRun) keep() (dir string, err error) {
	dir, err = os.MkdirTemp("", "atlantis-locks-crash-seed-"+strconv.FormatUint(r.Seed, 10)+"-")
	if err != nil {
		return "", err
	}
	report, err := json.MarshalIndent(r, "", " ")
	return dir, errors.Join(
		err,
		os.WriteFile(filepath.Join(dir, crashReport), report, 0o600),
		os.WriteFile(filepath.Join(dir, crashFile), r.file, 0o600),
	)
}

// plantedT is a test that may fail: it only notes it.
type plantedT struct {
	testing.TB
	failed bool
	errors []string
}

func (p *plantedT) Failed() bool { return p.failed }

func (p *plantedT) Errorf(format string, args ...any) {
	p.failed = true
	p.errors = append(p.errors, fmt.Sprintf(format, args...))
}

// FailNow ends the goroutine, as that of a test does.
func (p *plantedT) FailNow() {
	p.failed = true
	runtime.Goexit()
}

// A run that is judged wrong is kept whole: what the process reported, and the
// file as the kill left it, which the judge has written to since.
func TestAWrongRunIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	healthy := &crashRun{Seed: 7, Round: 3}
	healthy.kill(t, path, 500)
	left := slices.Clone(healthy.file)
	for name, plant := range map[string]func(p *plantedT, run *crashRun, path string){
		"a requirement that is not met": func(p *plantedT, run *crashRun, path string) {
			run.Steps = append(run.Steps,
				loadStep{Call: 1 << 40, Answered: true, Op: "acquire", Resource: "lost", Lock: "none", Owner: "user:alice", Token: 1 << 60, Granted: true})
			(&crashJudge{}).round(p, path, run.Steps)
		},
		"a check that goes on": func(p *plantedT, run *crashRun, path string) {
			(&crashJudge{}).round(p, path, run.Steps)
			p.Errorf("something else is wrong")
		},
		"a panic": func(*plantedT, *crashRun, string) { panic("the judge is broken") },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), crashFile)
			require.NoError(t, os.WriteFile(path, left, 0o600))
			run := &crashRun{Seed: 7, Round: 3, Steps: slices.Clone(healthy.Steps), file: healthy.file}
			planted := &plantedT{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }() // of the planted panic
				run.keepUnlessRight(planted, func() { plant(planted, run, path) })
			}()
			<-done
			require.True(t, planted.failed)
			named := regexp.MustCompile(`seed 7, round 3: the run is kept in (\S+) \(<nil>\)`).FindStringSubmatch(strings.Join(planted.errors, "\n"))
			require.NotNil(t, named, "%q", planted.errors)
			dir := named[1]
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })

			var kept crashRun
			report, err := os.ReadFile(filepath.Join(dir, crashReport))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(report, &kept))
			require.EqualValues(t, 7, kept.Seed)
			require.Equal(t, 3, kept.Round)
			require.Equal(t, run.Steps, kept.Steps)
			content, err := os.ReadFile(filepath.Join(dir, crashFile))
			require.NoError(t, err)
			require.Equal(t, left, content)
			db, err := bbolt.Open(filepath.Join(dir, crashFile), 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		})
	}

	t.Run("nothing of one that is right", func(t *testing.T) {
		planted := &plantedT{TB: t}
		healthy.keepUnlessRight(planted, func() { (&crashJudge{}).round(planted, path, healthy.Steps) })
		require.Empty(t, planted.errors)
	})
}
