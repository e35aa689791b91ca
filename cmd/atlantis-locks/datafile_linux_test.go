package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// obeyModes makes the calling goroutine's thread obey the modes of files also
// where the tests run as root, until the test ends: it gives up the capability
// to override them, and its goroutine stays on the thread, which ends with it.
func obeyModes(t *testing.T) {
	t.Helper()
	const (
		version3       = 0x20080522
		dacOverride    = 1
		dacReadSearch  = 2
		giveUpOverride = 1<<dacOverride | 1<<dacReadSearch
	)
	header := struct {
		version uint32
		pid     int32
	}{version: version3}
	var sets [2]struct{ effective, permitted, inheritable uint32 }
	runtime.LockOSThread()
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0)
	require.Zero(t, errno)
	sets[0].effective &^= giveUpOverride
	_, _, errno = syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0)
	require.Zero(t, errno)
}

// A file that can't be written is refused at the start, and not only at the
// first lock.
func TestServeRefusesAReadOnlyFile(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, dataFileName)
	lockAndUnlock(t, path)
	before := readRaw(t, path)
	require.NoError(t, os.Chmod(path, 0o400))
	obeyModes(t)
	_, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.ErrorIs(t, err, os.ErrPermission, "the file is not read-only")

	// In this process, on this thread: a program of its own would have root's
	// rights again.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	env := environment{program: "atlantis-locks", stdout: io.Discard, stderr: &stderr, getenv: func(string) string { return "" }}
	root := newRootCommand(env)
	root.SetArgs([]string{"serve", "--data-dir", directory, "--listen", "127.0.0.1:0"})
	command, err := root.ExecuteContextC(ctx)
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it serves the file")
	require.Equal(t, exitError, report(env, command, err))
	require.Equal(t, "error: can't open \""+path+"\": permission denied\n", stderr.String())
	before.requireUntouched()
}

// /dev/full takes nothing that is written, and is no plain file to begin with.
func TestDevFullIsNoDataFile(t *testing.T) {
	linked := t.TempDir()
	require.NoError(t, os.Symlink("/dev/full", filepath.Join(linked, dataFileName)))
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"serve, in its place":     {[]string{"serve", "--data-dir", linked, "--listen", "127.0.0.1:0"}, `refusing to open "` + filepath.Join(linked, dataFileName) + `": it is a symbolic link, not a plain file`},
		"serve, as its directory": {[]string{"serve", "--data-dir", "/dev/full", "--listen", "127.0.0.1:0"}, "can't make the data directory: "},
		"verify":                  {[]string{"verify", "--file", "/dev/full"}, `can't read "/dev/full": it is of type `},
		"verify, linked":          {[]string{"verify", "--data-dir", linked}, `can't read "` + filepath.Join(linked, dataFileName) + `": it is of type `},
		"import":                  {[]string{"import", "/dev/full", "--server", "http://127.0.0.1:1"}, `can't read "/dev/full": it is of type `},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runProgram(t, c.args...)
			require.Equal(t, exitError, code)
			require.Empty(t, stdout)
			require.Contains(t, stderr, "error: "+c.says)
			require.Contains(t, stderr, "\nhint: ")
		})
	}
}
