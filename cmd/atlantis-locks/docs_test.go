package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// eachPage calls use for the README and each page of the docs.
func eachPage(t *testing.T, use func(page, content string)) {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range append(pages, "../../README.md") {
		content, err := os.ReadFile(page)
		require.NoError(t, err)
		use(filepath.Base(page), string(content))
	}
}

// The configuration that the pages show is one.
func TestConfigurationInDocs(t *testing.T) {
	t.Parallel()
	seen := 0
	eachPage(t, func(page, content string) {
		for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(content, -1) {
			seen++
			_, problems := loadConfiguration(newOptions(), options.Sources{File: []byte(block[1]), FileName: page})
			require.Empty(t, problems, "%s: %s", page, block[1])
		}
	})
	require.NotZero(t, seen)
}

// The commands that the pages show are commands of the program, with flags and
// arguments that they take. A name alone stands for the command.
func TestCommandsInDocs(t *testing.T) {
	t.Parallel()
	seen := 0
	eachPage(t, func(page, content string) {
		content = strings.ReplaceAll(content, "\\\n", "")
		for _, typed := range regexp.MustCompile("(?m)^(?:\\$ )?(atlantis-locks .*)$|`(atlantis-locks [^`]*)`").FindAllStringSubmatch(content, -1) {
			seen++
			requireCommand(t, page, strings.ReplaceAll(typed[1]+typed[2], "\n", " "))
		}
	})
	require.Greater(t, seen, 50)
}

func requireCommand(t *testing.T, page, line string) {
	t.Helper()
	script := "printf '%s\\n' " + strings.TrimPrefix(line, "atlantis-locks ")
	words, err := exec.CommandContext(t.Context(), "sh", "-fc", script).Output()
	require.NoError(t, err, "%s: %s", page, line)
	root := newRootCommand(environment{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }})
	cmd, args, err := root.Find(strings.Split(strings.TrimSuffix(string(words), "\n"), "\n"))
	require.NoError(t, err, "%s: %s", page, line)
	if err = cmd.ParseFlags(args); errors.Is(err, pflag.ErrHelp) {
		return
	}
	require.NoError(t, err, "%s: %s", page, line)
	require.NotEqual(t, root, cmd, "%s: %s", page, line)
	if len(args) > 0 {
		require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), "%s: %s", page, line)
	}
}
