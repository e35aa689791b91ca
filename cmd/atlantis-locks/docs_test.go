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
	"github.com/spf13/cobra"
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

// The commands that the pages show, and the examples in the help of commands, are
// commands of the program, with flags and arguments that they take. A name alone stands
// for the command.
func TestCommandsInDocs(t *testing.T) {
	t.Parallel()
	var typed []string
	eachPage(t, func(_, content string) {
		content = strings.ReplaceAll(content, "\\\n", "")
		for _, found := range regexp.MustCompile("(?m)^(?:\\$ )?(atlantis-locks .*)$|`(atlantis-locks [^`]*)`").FindAllStringSubmatch(content, -1) {
			typed = append(typed, strings.ReplaceAll(found[1]+found[2], "\n", " "))
		}
	})
	require.Greater(t, len(typed), 50)
	examples := examplesOf(quietProgram())
	require.Greater(t, len(examples), 20)
	typed = append(typed, examples...)
	for i, words := range splitLines(t, typed) {
		requireCommand(t, typed[i], words[1:])
	}
}

// examplesOf are the examples of a command and of those below it.
func examplesOf(cmd *cobra.Command) []string {
	var examples []string
	for line := range strings.Lines(cmd.Example) {
		typed, _, _ := strings.Cut(strings.TrimSpace(line), " | ")
		examples = append(examples, typed)
	}
	for _, below := range cmd.Commands() {
		examples = append(examples, examplesOf(below)...)
	}
	return examples
}

// splitLines splits lines into words, as a shell does.
func splitLines(t *testing.T, lines []string) [][]string {
	t.Helper()
	var script strings.Builder
	for _, line := range lines {
		script.WriteString("printf '%s\\0' " + line + "\necho\n")
	}
	output, err := exec.CommandContext(t.Context(), "sh", "-fc", script.String()).Output()
	require.NoError(t, err)
	var words [][]string
	for line := range strings.Lines(string(output)) {
		words = append(words, strings.Split(strings.TrimSuffix(line, "\x00\n"), "\x00"))
	}
	require.Len(t, words, len(lines))
	return words
}

// quietProgram is the program in an environment without anything in it.
func quietProgram() *cobra.Command {
	return newRootCommand(environment{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }})
}

func requireCommand(t *testing.T, line string, words []string) {
	t.Helper()
	root := quietProgram()
	cmd, args, err := root.Find(words)
	require.NoError(t, err, line)
	if err = cmd.ParseFlags(args); errors.Is(err, pflag.ErrHelp) {
		return
	}
	require.NoError(t, err, line)
	require.NotEqual(t, root, cmd, line)
	if len(args) > 0 {
		require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), line)
	}
}
