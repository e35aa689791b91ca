package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// TestMain makes the program a command of scripts and of exec.Command.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"atlantis-locks": main})
}

// The scripts run the real program with real servers and files.
func TestScripts(t *testing.T) {
	login, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		// A server that should have refused to start is not waited for.
		Deadline: time.Now().Add(9 * time.Minute),
		Setup: func(env *testscript.Env) error {
			env.Setenv("LOGIN", login.Username)
			env.Setenv("ESCAPE", "\x1b[2J")
			// The race detector lets each process sleep for a second at its end.
			env.Setenv("GORACE", "atexit_sleep_ms=20")
			example, err := os.ReadFile("testdata/specification.yaml")
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "specification.yaml"), example, 0o600); err != nil {
				return err
			}
			env.Values[redisValue{}] = new(redis.UniversalClient)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       cmdExits,
			"useserver":   cmdUseServer,
			"stocklock":   cmdStockLock,
			"rawrecord":   cmdRawRecord,
			"nobucket":    cmdNoBucket,
			"rawentry":    cmdRawEntry,
			"dropentries": cmdDropEntries,
			"holdfile":    cmdHoldFile,
			"holdport":    cmdHoldPort,
			"holdhttp":    cmdHoldHTTP,
			"truncate":    cmdTruncate,
			"mode":        cmdMode,
			"expand":      cmdExpand,
			"waits":       cmdWaits,
			"says":        cmdSays,
			"explains":    cmdExplains,
			"redis":       startRedis(t),
			"stockredis":  cmdStockRedis,
		},
	})
}

// cmdExits runs a program and wants an exit code: exits CODE PROGRAM ARGS...
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

// cmdUseServer waits for the address file of a server and makes it the one that
// clients talk to: useserver FILE
func cmdUseServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: useserver FILE")
	}
	path := ts.MkAbs(args[0])
	ts.Setenv(serverVariable, strings.TrimSpace(poll(ts, func() (string, bool) {
		content, err := os.ReadFile(path)
		return string(content), err == nil
	})))
}

// poll calls get until it succeeds, for at most a minute.
func poll(ts *testscript.TestScript, get func() (string, bool)) string {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for {
		if value, ok := get(); ok {
			return value
		}
		select {
		case <-ticker.C:
		case <-deadline:
			ts.Fatalf("waited too long")
		}
	}
}

// cmdWaits waits until so many requests wait on the server: waits N
func cmdWaits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waits N")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	server, err := client.New(ts.Getenv(serverVariable))
	ts.Check(err)
	poll(ts, func() (string, bool) {
		queue, err := server.Queue(context.Background(), "")
		ts.Check(err)
		return "", len(queue.Waiters) == want
	})
}

// cmdSays waits until a file contains a text: says FILE TEXT
func cmdSays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: says FILE TEXT")
	}
	path := ts.MkAbs(args[0])
	poll(ts, func() (string, bool) {
		content, err := os.ReadFile(path)
		return "", err == nil && strings.Contains(string(content), args[1])
	})
}

// cmdExplains waits until the server explains a priority so: explains REPO PATH
// WORKSPACE TEXT
func cmdExplains(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: explains REPO PATH WORKSPACE TEXT")
	}
	poll(ts, func() (string, bool) {
		ts.Check(ts.Exec("atlantis-locks", "priority", "explain", args[0], args[1], args[2]))
		return "", strings.TrimSpace(ts.ReadFile("stdout")) == args[3]
	})
}

// cmdStockLock locks a project as stock Atlantis does, with its own package:
// stocklock DIR REPO PATH WORKSPACE PULL
func cmdStockLock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 5 {
		ts.Fatalf("usage: stocklock DIR REPO PATH WORKSPACE PULL")
	}
	pull, err := strconv.Atoi(args[4])
	ts.Check(err)
	stock, err := boltdb.New(ts.MkAbs(args[0]))
	ts.Check(err)
	acquired, _, err := stock.TryLock(stockLock(args[1], args[2], args[3], pull))
	ts.Check(errors.Join(err, stock.Close()))
	if !acquired {
		ts.Fatalf("stock Atlantis has it locked already")
	}
}

// stockLock is a lock as stock Atlantis makes it, with the credential in it.
func stockLock(repository, path, workspace string, pull int) models.ProjectLock {
	owner, name := models.SplitRepoFullName(repository)
	return models.ProjectLock{
		Project:   models.NewProject(repository, path, ""),
		Workspace: workspace,
		User:      models.User{Username: "carol"},
		Time:      time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC),
		Pull: models.PullRequest{
			Num: pull, URL: "https://github.com/" + repository + "/pull/" + strconv.Itoa(pull), State: models.OpenPullState,
			BaseRepo: models.Repo{
				FullName: repository, Owner: owner, Name: name,
				CloneURL:          "https://bot:hunter2@github.com/" + repository + ".git",
				SanitizedCloneURL: "https://bot:<redacted>@github.com/" + repository + ".git",
				VCSHost:           models.VCSHost{Hostname: "github.com", Type: models.Github},
			},
		},
	}
}

// cmdRawRecord puts a record into stock's bucket: rawrecord FILE KEY VALUE. As
// VALUE, lock:REPO:PATH:WORKSPACE:PULL stands for the record of that lock.
func cmdRawRecord(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: rawrecord FILE KEY VALUE")
	}
	value := []byte(args[2])
	if fields := strings.Split(args[2], ":"); len(fields) == 5 && fields[0] == "lock" {
		pull, err := strconv.Atoi(fields[4])
		ts.Check(err)
		value, err = json.Marshal(stockLock(fields[1], fields[2], fields[3], pull))
		ts.Check(err)
	}
	db, err := bbolt.Open(ts.MkAbs(args[0]), 0o600, &bbolt.Options{Timeout: time.Second})
	ts.Check(err)
	ts.Check(errors.Join(db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte(stockLocksBucket))
		if err != nil {
			return err
		}
		return bucket.Put([]byte(args[1]), value)
	}), db.Close()))
}

// cmdNoBucket makes a bbolt file that is not Atlantis': nobucket FILE
func cmdNoBucket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: nobucket FILE")
	}
	db, err := bbolt.Open(ts.MkAbs(args[0]), 0o600, &bbolt.Options{Timeout: time.Second})
	ts.Check(err)
	ts.Check(db.Close())
}

// cmdHoldFile has a bbolt file open until the script ends, as Atlantis would:
// holdfile FILE
func cmdHoldFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: holdfile FILE")
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	ts.Check(err)
	ts.Defer(func() { _ = db.Close() })
}

// cmdHoldPort listens on a free port until the script ends, and puts it into
// $PORT: holdport
func cmdHoldPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: holdport")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
	ts.Setenv("PORT", strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
}

// cmdTruncate cuts a file off: truncate FILE SIZE
func cmdTruncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncate FILE SIZE")
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
}

// cmdMode wants a file to have permissions: mode FILE 0600
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE MODE")
	}
	want, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := info.Mode().Perm(); got != os.FileMode(want) {
		ts.Fatalf("mode is %#o, want %#o", got, want)
	}
}

// cmdExpand replaces variables in files by their values: expand FILE...
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, file := range args {
		path := ts.MkAbs(file)
		content, err := os.ReadFile(path)
		ts.Check(err)
		ts.Check(os.WriteFile(path, []byte(os.Expand(string(content), ts.Getenv)), 0o600))
	}
}
