package tests

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests that the pages name are there.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	module := os.DirFS("..")
	var code strings.Builder
	require.NoError(t, fs.WalkDir(module, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") && !strings.HasPrefix(path, "backends/backendtest/") {
			return err
		}
		text, err := fs.ReadFile(module, path)
		code.Write(text)
		return err
	}))
	name := regexp.MustCompile("`(?:(Test\\w+)|(?:Adapter|Suite|TestExpectations/\\.\\.\\.)/([^`]+))`")
	for _, page := range []string{"compatibility.md", "compatibility-expectations.md", "modes.md", "tuning.md", "peers.md"} {
		text, err := fs.ReadFile(module, "docs/"+page)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			cells := strings.Split(line, " | ") // the last one names tests of this module
			for _, match := range name.FindAllStringSubmatch(cells[len(cells)-1], -1) {
				if function := match[1]; function != "" {
					require.True(t, strings.Contains(code.String(), "func "+function+"("), "%s: %s", page, line)
				} else {
					require.True(t, strings.Contains(code.String(), `t.Run("`+match[2]+`"`), "%s: %s", page, line)
				}
			}
		}
	}
}
