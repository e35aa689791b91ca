package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

const (
	atlantisModule = "github.com/runatlantis/atlantis"
	enhancedFolder = "./server/core/locking/enhanced"
)

// TestEmbed puts this module into a copy of Atlantis' source tree, and tests it
// there. With the full number of rounds the whole of Atlantis is built, and every
// command of the specification is run.
func TestEmbed(t *testing.T) {
	full := backendtest.Rounds(2) == 2
	if !full { // all tests of the tree need the machine for themselves
		t.Parallel()
	}
	tree := filepath.Join(t.TempDir(), "tree")
	parts := []string{"go.mod", "go.sum", "server"}
	if full {
		parts = []string{"."}
	}
	copyAtlantis(t, tree, parts...)
	if full {
		runIn(t, "..", "make", "embed", "ATLANTIS="+tree)
	} else {
		runIn(t, "..", "scripts/embed", tree)
	}

	// The packages are the same, and belong to Atlantis' module now.
	own := strings.Fields(runIn(t, "..", "go", "list", "./..."))
	var embedded []string
	for _, line := range strings.Fields(runIn(t, tree, "go", "list", "-f", "{{.ImportPath}}={{.Module.Path}}", enhancedFolder+"/...")) {
		name, module, _ := strings.Cut(line, "=")
		require.Equal(t, atlantisModule, module, name)
		embedded = append(embedded, name)
	}
	require.Equal(t, own, embedded)
	foreign := runIn(t, tree, "go", "list", "-deps", "-f", "{{if .Module}}{{.Module.Dir}}{{end}}", enhancedFolder)
	require.True(t, slices.Contains(strings.Fields(foreign), resolved(t, tree)))
	require.NotContains(t, foreign, atlantisModule+"@", "Atlantis comes from the tree, not from the module cache")

	if !full {
		// Built as this test is, so that what it needs is there already.
		runIn(t, tree, "go", append(append([]string{"build"}, raceFlag(t)...), enhancedFolder+"/queue", enhancedFolder+"/timeout", enhancedFolder+"/deadlock")...)
		return
	}
	runIn(t, tree, "go", "build", "-o", os.DevNull, ".")
	runIn(t, tree, "go", "vet", enhancedFolder+"/...")
	runIn(t, tree, "go", "test", "-timeout", "30m", enhancedFolder+"/...")
	for _, name := range []string{"TestRedisBackendIntegration", "TestPerformanceUnderLoad", "TestBackwardCompatibility"} {
		output := runIn(t, tree, "go", "test", enhancedFolder+"/tests/", "-v", "-run", name)
		require.Contains(t, output, "--- PASS: "+name)
	}
	runIn(t, tree, "go", "test", enhancedFolder+"/tests/", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", "1x", "-short")
}

// raceFlag is the flag of the race detector, if this test runs with it.
func raceFlag(t *testing.T) []string {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	require.True(t, ok)
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return []string{"-race"}
	}
	return nil
}

func TestEmbedRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		folder  string
		prepare func(t *testing.T, tree string)
		says    string
	}{
		"no folder":        {"tree", func(*testing.T, string) {}, "is no folder"},
		"no module":        {"tree", func(t *testing.T, tree string) { t.Helper(); require.NoError(t, os.Mkdir(tree, 0o700)) }, "is no Atlantis source tree: it has no go.mod"},
		"another module":   {"tree", otherGoMod("module example.com/other\n"), "its module is example.com/other, not " + atlantisModule},
		"by its name":      {"atlantis-0.46.0", otherGoMod("module " + atlantisModule + "\n"), "is Atlantis v0.46.0, and this module is for Atlantis v0.47.1"},
		"by its go.mod":    {"tree", otherGoMod("module " + atlantisModule + "\n"), "of an unknown version (no git tag, and another go.mod), and this module is for Atlantis v0.47.1"},
		"by its git tag":   {"atlantis-0.47.1", taggedTree, "is Atlantis v0.46.0, and this module is for Atlantis v0.47.1"},
		"embedded already": {"tree", func(t *testing.T, tree string) { t.Helper(); copyAtlantis(t, tree, "go.mod"); makeFolder(t, tree) }, "remove it first"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := filepath.Join(t.TempDir(), test.folder)
			test.prepare(t, tree)
			before := contents(t, tree)
			output, err := runnable(t, "..", "scripts/embed", tree).CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(output), test.says)
			require.Equal(t, before, contents(t, tree), "what is refused is left as it is")
		})
	}
}

func otherGoMod(text string) func(*testing.T, string) {
	return func(t *testing.T, tree string) {
		t.Helper()
		require.NoError(t, os.Mkdir(tree, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(tree, "go.mod"), []byte(text), 0o600))
	}
}

func taggedTree(t *testing.T, tree string) {
	t.Helper()
	copyAtlantis(t, tree, "go.mod")
	for _, arguments := range [][]string{
		{"init", "-q"}, {"add", "go.mod"},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "a release"},
		{"tag", "v0.46.0"},
	} {
		runIn(t, tree, "git", arguments...)
	}
}

func makeFolder(t *testing.T, tree string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(tree, enhancedFolder), 0o700))
}

// copyAtlantis copies parts of Atlantis' module to where they can be changed.
func copyAtlantis(t *testing.T, tree string, parts ...string) {
	t.Helper()
	module := strings.TrimSpace(runIn(t, "..", "go", "list", "-m", "-f", "{{.Dir}}", atlantisModule))
	for _, part := range parts {
		from, to := filepath.Join(module, part), filepath.Join(tree, part)
		if info, err := os.Stat(from); err == nil && info.IsDir() {
			require.NoError(t, os.CopyFS(to, os.DirFS(from)))
			continue
		}
		content, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o700))
		require.NoError(t, os.WriteFile(to, content, 0o600))
	}
}

// contents are a folder's files, without git's.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	if _, err := os.Stat(folder); err != nil {
		return files
	}
	require.NoError(t, fs.WalkDir(os.DirFS(folder), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == ".git" {
			return errorOrSkip(err)
		}
		content := []byte("a folder")
		if !entry.IsDir() {
			content, err = os.ReadFile(filepath.Join(folder, path))
		}
		files[path] = string(content)
		return err
	}))
	return files
}

func errorOrSkip(err error) error {
	if err != nil {
		return err
	}
	return fs.SkipDir
}

func resolved(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	require.NoError(t, err)
	return path
}
