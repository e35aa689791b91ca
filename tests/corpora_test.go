package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every fuzz target has stored inputs, and every stored input a target: go test
// runs them without fuzzing, and says nothing where there are none.
func TestEveryFuzzTargetHasACorpus(t *testing.T) {
	t.Parallel()
	declaration := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)
	targets, stored := map[string]bool{}, map[string]int{}
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		folder := filepath.Dir(path)
		switch parent := filepath.Dir(folder); {
		case strings.HasSuffix(filepath.ToSlash(parent), "/testdata/fuzz"):
			stored[filepath.Join(filepath.Dir(filepath.Dir(parent)), filepath.Base(folder))]++
		case strings.HasSuffix(path, "_test.go"):
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, found := range declaration.FindAllSubmatch(source, -1) {
				targets[filepath.Join(folder, string(found[1]))] = true
			}
		}
		return nil
	}))
	require.NotEmpty(t, targets)
	for target := range targets {
		require.GreaterOrEqual(t, stored[target], 5, "%s has no corpus below testdata/fuzz", target)
	}
	for target := range stored {
		require.True(t, targets[target], "%s has a corpus and does not exist", target)
	}
}
