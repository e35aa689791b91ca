package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The console session of the README is what the program prints.
func TestReadmeSession(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	session := regexp.MustCompile("(?s)```console\n(.*?)\n```").FindSubmatch(readme)
	require.NotNil(t, session)
	address, stop := startServer(t, t.TempDir())
	defer stop()
	t.Setenv(serverVariable, address)
	var printed []string
	for _, line := range regexp.MustCompile(`(?m)^\$ (.*)$`).FindAllSubmatch(session[1], -1) {
		// What is refused has an exit code, which a session does not show.
		output, err := exec.CommandContext(t.Context(), "sh", "-c", string(line[1])).CombinedOutput()
		if err != nil {
			require.ErrorAs(t, err, new(*exec.ExitError))
		}
		printed = append(printed, fmt.Sprintf("$ %s\n%s", line[1], output))
	}
	require.Equal(t, sameEachTime(string(session[1])+"\n"), sameEachTime(strings.Join(printed, "\n")))
}

// sameEachTime replaces what differs between two runs of the same commands: the
// IDs of locks, by the order in which they come up, and how many seconds a lock
// has been held, with the spaces that fill its column.
func sameEachTime(session string) string {
	seen := make(map[string]string)
	session = regexp.MustCompile(`\b[0-9a-f]{32}-[0-9]+\b`).ReplaceAllStringFunc(session, func(id string) string {
		if seen[id] == "" {
			seen[id] = fmt.Sprint("ID", len(seen)+1)
		}
		return seen[id]
	})
	return regexp.MustCompile(`\b[0-9]+s\b *`).ReplaceAllString(session, "0s ")
}
