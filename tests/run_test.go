package tests

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

// runnable is a command that runs in a folder, as it would outside of this test.
func runnable(t *testing.T, folder, name string, arguments ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, arguments...)
	c.Dir = folder
	c.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, backendtest.FullRounds+"=") || strings.HasPrefix(variable, "MAKE")
	})
	return c
}

// runIn runs a command and returns what it prints.
func runIn(t *testing.T, folder, name string, arguments ...string) string {
	t.Helper()
	c := runnable(t, folder, name, arguments...)
	var errors bytes.Buffer
	c.Stderr = &errors
	output, err := c.Output()
	require.NoError(t, err, "%s in %s\n%s\n%s", c, folder, output, errors.String())
	return string(output)
}
