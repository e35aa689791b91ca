package tests

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Stock's boltdb decodes the locks that it lists after its transaction has ended.
// A write may have the file mapped anew by then. A process of stock's ends so, or
// decodes something else; one of ours goes on. With stock's boltdb as its legacy database see
// TestLegacyFileIsReadWhileItGrows.
func TestFaultReadingWhileTheFileGrows(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	require.NoError(t, err)
	for _, whose := range []string{"stock", "ours"} {
		t.Run(whose, func(t *testing.T) {
			t.Parallel()
			child := exec.CommandContext(t.Context(), executable, whose, t.TempDir())
			child.Env = append(os.Environ(), childMode+"=grow")
			output, err := child.CombinedOutput()
			first, _, _ := strings.Cut(string(output), "\n")
			t.Logf("%s: %v, %s", whose, err, first)
			if whose == "ours" {
				require.NoError(t, err, "%s", output)
				return
			}
			require.Error(t, err, "never met, the run is void")
			require.Regexp(t, "unexpected fault address|panic: JSON decoder|failed to deserialize|is damaged", first, "%s", output)
		})
	}
}

// growingFiles is how many files a process fills. Stock's does not get far.
func growingFiles(whose string) int {
	if whose == "stock" {
		return 20
	}
	return backendtest.Rounds(20)
}

// runGrow reads locks while their file grows. It returns 1 when an answer is wrong.
func runGrow(whose, dir string) int {
	for i := range growingFiles(whose) {
		if err := grow(whose, fmt.Sprintf("%s/%d", dir, i)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

func grow(whose, dir string) error {
	database, err := openGrowing(whose, dir)
	if err != nil {
		return err
	}
	long := strings.Repeat("x", 20_000)
	failed, ended := make(chan error, 2), make(chan struct{})
	var reading sync.WaitGroup
	for range cap(failed) {
		reading.Go(func() { failed <- readUntil(ended, database, long) })
	}
	for i := range 40 {
		lock := models.ProjectLock{
			Project: models.NewProject(project, fmt.Sprintf("p%d", i), ""), Workspace: "default",
			User: models.User{Username: long}, Time: time.Now(), Pull: models.PullRequest{Num: 1},
		}
		if _, _, err = database.TryLock(lock); err != nil {
			break
		}
	}
	close(ended)
	reading.Wait()
	for range cap(failed) {
		if readErr := <-failed; readErr != nil && err == nil {
			err = readErr
		}
	}
	if err != nil {
		return err
	}
	return database.Close()
}

func openGrowing(whose, dir string) (db.Database, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if whose == "stock" {
		return boltdb.New(dir)
	}
	file, err := bbolt.Open(dir+"/ours.db", 0o600, nil)
	if err != nil {
		return nil, err
	}
	config := enhanced.DefaultConfig()
	config.Enabled = true
	backend, err := backends.NewBoltBackend(file, config, nil)
	if err != nil {
		return nil, err
	}
	return enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, nil, nil), nil
}

func readUntil(ended <-chan struct{}, database db.Database, user string) error {
	for {
		select {
		case <-ended:
			return nil
		default:
		}
		locks, err := database.List()
		if err != nil {
			return err
		}
		for _, lock := range locks {
			if lock.User.Username != user {
				return fmt.Errorf("the lock of %s is damaged", lock.Project.Path)
			}
		}
	}
}
