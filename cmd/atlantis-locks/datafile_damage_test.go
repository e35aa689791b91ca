package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// runProgram runs the program to its end, for at most a minute.
func runProgram(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, log bytes.Buffer
	program := exec.CommandContext(ctx, "atlantis-locks", args...)
	program.Stdout, program.Stderr = &out, &log
	if err := program.Run(); err != nil {
		exit := (*exec.ExitError)(nil)
		require.True(t, errors.As(err, &exit), "%v", err)
		code = exit.ExitCode()
	}
	require.NoError(t, ctx.Err(), "it does not end")
	return code, out.String(), log.String()
}

// startServer serves a directory, with further flags, and returns the server's
// address and how to stop it. That returns what the server has logged.
func startServer(t *testing.T, directory string, flags ...string) (address string, stop func() string) {
	t.Helper()
	addressFile := filepath.Join(t.TempDir(), "addr")
	var log bytes.Buffer
	server := exec.CommandContext(t.Context(), "atlantis-locks",
		append([]string{"serve", "--data-dir", directory, "--listen", "127.0.0.1:0", "--address-file", addressFile}, flags...)...)
	server.Stderr = &log
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(addressFile)
		address = strings.TrimSpace(string(content))
		return err == nil
	}, 20*time.Second, 5*time.Millisecond, "the server does not listen")
	return address, func() string {
		require.NoError(t, server.Process.Signal(syscall.SIGTERM))
		require.NoError(t, server.Wait(), "%s", &log)
		return log.String()
	}
}

// lockAndUnlock makes a store in which one lock is held, and one was released
// by the last transaction.
func lockAndUnlock(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	backend, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	var last string
	for _, path := range []string{"held", "released"} {
		lock, err := backend.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: models.NewProject("acme/infra", path, ""), Workspace: "default",
			User: models.User{Username: "alice"}, Timeout: enhanced.NoTimeout,
		})
		require.NoError(t, err)
		last = lock.ID
	}
	require.NoError(t, backend.ReleaseLock(t.Context(), last))
	require.NoError(t, errors.Join(backend.Close(), db.Close()))
}

// rawFile changes single numbers of a bbolt file, by its layout: two pages that
// describe it in turn, each with the transaction that wrote it at byte 64 and
// the page of the list of free pages at byte 48; pages have a header of 16 bytes.
type rawFile struct {
	t       *testing.T
	path    string
	content []byte
}

func readRaw(t *testing.T, path string) *rawFile {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return &rawFile{t, path, content}
}

func (f *rawFile) number(at int) int { return int(binary.NativeEndian.Uint64(f.content[at:])) }

// newest is where the newer of the two pages starts.
func (f *rawFile) newest() int {
	if page := os.Getpagesize(); f.number(page+64) > f.number(64) {
		return page
	}
	return 0
}

// listFreePages has bbolt write a list of several free pages into a file, as stock
// Atlantis does.
func listFreePages(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	name := []byte("large")
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(name)
		require.NoError(t, err)
		return b.Put(name, make([]byte, 5*os.Getpagesize()))
	}))
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(name) }))
	require.NoError(t, db.Close())
}

func (f *rawFile) freeList() int { return f.number(f.newest()+48) * os.Getpagesize() }

// loop makes a page of branches its own first branch. Such a page has the kind 1
// at byte 8, and the page that its first element points to at byte 8 of that.
func (f *rawFile) loop() {
	f.t.Helper()
	size := os.Getpagesize()
	for page := 2; page*size < len(f.content); page++ {
		if start := page * size; binary.NativeEndian.Uint16(f.content[start+8:]) == 1 {
			binary.NativeEndian.PutUint64(f.content[start+16+8:], uint64(page)) //nolint:gosec // not negative
			return
		}
	}
	f.t.Fatal("there is no page of branches")
}

func (f *rawFile) write() {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(f.path, f.content, 0o600))
}

func (f *rawFile) requireUntouched() {
	f.t.Helper()
	after, err := os.ReadFile(f.path)
	require.NoError(f.t, err)
	require.True(f.t, bytes.Equal(f.content, after), "the file was touched")
}

// bbolt opens a file whose list of free pages is damaged, and ends the process
// later, or takes all memory. Nothing starts on such a file.
func TestNothingStartsOnADamagedFreeList(t *testing.T) {
	for name, damage := range map[string]func(f *rawFile){
		"type":     func(f *rawFile) { f.content[f.freeList()+8] = 2 },
		"zeros":    func(f *rawFile) { clear(f.content[f.freeList():][:os.Getpagesize()]) },
		"overflow": func(f *rawFile) { binary.NativeEndian.PutUint32(f.content[f.freeList()+12:], 1<<32-1) },
		"length": func(f *rawFile) {
			binary.NativeEndian.PutUint16(f.content[f.freeList()+10:], 1<<16-1)
			binary.NativeEndian.PutUint64(f.content[f.freeList()+16:], 1000)
		},
		"page in use":  func(f *rawFile) { copy(f.content[f.freeList()+16:], f.content[f.newest()+32:][:8]) },
		"page twice":   func(f *rawFile) { copy(f.content[f.freeList()+24:], f.content[f.freeList()+16:][:8]) },
		"page far off": func(f *rawFile) { binary.NativeEndian.PutUint64(f.content[f.freeList()+16:], 1<<40) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			directory := t.TempDir()
			path := filepath.Join(directory, dataFileName)
			lockAndUnlock(t, path)
			listFreePages(t, path)
			f := readRaw(t, path)
			damage(f)
			f.write()

			code, stdout, stderr := runProgram(t, "serve", "--data-dir", directory, "--listen", "127.0.0.1:0")
			require.Equal(t, exitError, code)
			require.Empty(t, stdout)
			require.Contains(t, stderr, `error: "`+path+`" is damaged`)
			require.Contains(t, stderr, "it was not touched")
			require.Contains(t, stderr, "\nhint: put back a copy of the file that was made while nothing had it open\n")
			require.NotContains(t, stderr, "goroutine ")
			f.requireUntouched()

			code, stdout, stderr = runProgram(t, "verify", "--file", path, "--repair", "--reason", "why", "--yes")
			require.Equal(t, exitViolations, code, stderr)
			require.Contains(t, stdout, enhanced.RuleFile)
			require.Contains(t, stdout, path)
			require.Contains(t, stdout, "put back a copy of the file")
			require.NotContains(t, stderr, "goroutine ")
			f.requireUntouched()
		})
	}
}

// With the newer of the two pages damaged that describe the file, bbolt goes on
// with the older one: the last transaction is gone. Both commands say so, the
// server at any log level.
func TestADamagedDescriptionIsToldAndHeals(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, dataFileName)
	lockAndUnlock(t, path)
	f := readRaw(t, path)
	f.content[f.newest()+40] ^= 1
	f.write()
	page := string('0' + byte(f.newest()/os.Getpagesize()))

	code, stdout, stderr := runProgram(t, "verify", "--file", path)
	require.Equal(t, exitViolations, code, stderr)
	require.Contains(t, stdout, enhanced.RuleFile)
	require.Contains(t, stdout, "page "+page+", one of the two that describe the file in turn, is damaged")
	require.Contains(t, stdout, "what the last transaction changed can be missing")
	f.requireUntouched()

	address, stop := startServer(t, directory, "--log-level", "error")
	_, stdout, _ = runProgram(t, "list", "--server", address)
	require.Contains(t, stdout, "released", "what the last transaction released")
	code, _, stderr = runProgram(t, "lock", "--server", address, "acme/infra", "new", "default", "--user", "bob")
	require.Equal(t, exitDone, code, stderr)
	logged := firstOf(t, "error", stop())
	require.Contains(t, logged, `"`+path+`": page `+page+", one of the two that describe the file in turn, is damaged")
	require.Contains(t, logged, "put back a copy of the file")

	code, stdout, stderr = runProgram(t, "verify", "--file", path)
	require.Equal(t, exitDone, code, stdout+stderr)
}

// Space that is lost is no damage to any lock.
func TestServeWarnsOfLostSpace(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, dataFileName)
	lockAndUnlock(t, path)
	listFreePages(t, path)
	f := readRaw(t, path)
	require.NotZero(t, f.content[f.freeList()+10], "no page is free")
	f.content[f.freeList()+10]--
	f.write()
	_, stop := startServer(t, directory)
	log := stop()
	require.Contains(t, firstOf(t, "warn", log), "is neither in use nor free: its space is lost, and nothing else")
	require.Empty(t, firstOf(t, "error", log))
}

// firstOf wants each line of a server's log to be an object, and returns the
// message of the first one of a level.
func firstOf(t *testing.T, level, log string) string {
	t.Helper()
	var first string
	for line := range strings.Lines(log) {
		var entry struct{ Level, Msg string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry), "%s", line)
		if entry.Level == level && first == "" {
			first = entry.Msg
		}
	}
	return first
}

// bbolt would follow the page until the memory is full.
func TestImportOfAPageThatPointsToItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), dataFileName)
	makeStockFile(t, path, 300)
	f := readRaw(t, path)
	f.loop()
	f.write()
	code, stdout, stderr := runProgram(t, "import", path, "--server", "http://127.0.0.1:1")
	require.Equal(t, exitError, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, `error: "`+path+`" is damaged`)
	require.Contains(t, stderr, "\nhint: put back a copy of the file that was made while nothing had it open\n")
	f.requireUntouched()
}

// What can be read is imported, and what can be missing is told.
func TestImportTellsOfADamagedDescription(t *testing.T) {
	path := filepath.Join(t.TempDir(), dataFileName)
	makeStockFile(t, path, 1)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(stockLocksBucket)).Put([]byte("last"), []byte("transaction"))
	}))
	require.NoError(t, db.Close())
	f := readRaw(t, path)
	f.content[f.newest()+40] ^= 1
	f.write()
	page := string('0' + byte(f.newest()/os.Getpagesize()))

	address, stop := startServer(t, t.TempDir())
	defer stop()
	code, stdout, stderr := runProgram(t, "import", path, "--server", address)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, "\n1 record in "+path+": 1 taken")
	require.Contains(t, stderr, `warning: "`+path+`": page `+page+", one of the two that describe the file in turn, is damaged")
	require.Contains(t, stderr, "what the last transaction changed can be missing")
	f.requireUntouched()
}

// With both of them damaged there is no store, and none is made in its place.
func TestBothDescriptionsDamaged(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, dataFileName)
	lockAndUnlock(t, path)
	f := readRaw(t, path)
	f.content[40] ^= 1
	f.content[os.Getpagesize()+40] ^= 1
	f.write()
	for _, args := range [][]string{
		{"serve", "--data-dir", directory, "--listen", "127.0.0.1:0"},
		{"verify", "--file", path},
	} {
		code, _, stderr := runProgram(t, args...)
		require.Equal(t, exitError, code)
		require.Contains(t, stderr, `error: "`+path+`" is damaged`)
		require.Contains(t, stderr, "hint: put back a copy of the file")
		f.requireUntouched()
	}
}

// A file without content, as touch makes it, becomes a store like one that is
// missing.
func TestServeOnAFileWithoutContent(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, dataFileName)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	code, _, stderr := runProgram(t, "verify", "--file", path)
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, `error: "`+path+`" is empty`)

	address, stop := startServer(t, directory)
	code, _, stderr = runProgram(t, "lock", "--server", address, "acme/infra", ".", "default", "--user", "bob")
	require.Equal(t, exitDone, code, stderr)
	log := stop()
	require.Empty(t, firstOf(t, "warn", log))
	require.Empty(t, firstOf(t, "error", log))
	code, stdout, stderr := runProgram(t, "verify", "--file", path)
	require.Equal(t, exitDone, code, stdout+stderr)
	address, stop = startServer(t, directory)
	_, stdout, _ = runProgram(t, "list", "--server", address)
	require.Contains(t, stdout, "bob")
	stop()
}
