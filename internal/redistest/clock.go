package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

//go:embed clockshim.c.txt
var clockShim []byte

// Clock is a wall clock of servers that a test can set.
type Clock struct {
	tb      testing.TB
	file    string
	library string
}

// NewClock makes a clock that is right at first. It needs a C compiler.
func NewClock(tb testing.TB) *Clock {
	tb.Helper()
	dir := tb.TempDir()
	c := &Clock{tb: tb, file: filepath.Join(dir, "clock"), library: filepath.Join(dir, "clockshim.so")}
	source := filepath.Join(dir, "clockshim.c")
	require.NoError(tb, os.WriteFile(source, clockShim, 0o600))
	output, err := exec.CommandContext(tb.Context(), "cc", "-shared", "-fPIC", "-O1", "-o", c.library, source).CombinedOutput()
	require.NoError(tb, err, "%s; install a C compiler: sudo apt-get install gcc libc6-dev", output)
	c.Set(0)
	return c
}

// Env has servers use the clock, see [Options.Env].
func (c *Clock) Env() []string {
	return []string{"LD_PRELOAD=" + c.library, "ATLANTIS_LOCKS_TEST_CLOCK=" + c.file}
}

// Set moves the clock by whole seconds from the right time.
func (c *Clock) Set(offset time.Duration) {
	c.tb.Helper()
	file, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(c.tb, err)
	_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(offset/time.Second))), 0)
	require.NoError(c.tb, err)
	require.NoError(c.tb, file.Close())
}
