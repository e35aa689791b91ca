package history

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// failing is a test that may fail.
type failing struct {
	name   string
	errors []string
}

func (f *failing) Helper()      {}
func (f *failing) Name() string { return f.name }
func (f *failing) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func TestKeepEvidence(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h := sequence(acquire(alice, "1").got(10), acquire(bob, "2").got(11), on(Lookup).shows(Done, 10, alice), of(Release, 10).unknown())
	h.Seed = 42
	test := &failing{name: "TestX/with a/strange name"}
	require.False(t, h.Keep(test, h.Judge(),
		Evidence{"atlantis.db", func(w io.Writer) error { _, err := w.Write([]byte("the store")); return err }},
		Evidence{"broken", func(io.Writer) error { return errors.New("no copy") }},
	))
	require.Len(t, test.errors, 2)
	require.Contains(t, test.errors[0], "seed 42")
	require.Contains(t, test.errors[0], "org/app r: ")
	require.Contains(t, test.errors[1], "no copy")

	_, rest, _ := strings.Cut(test.errors[0], "kept in ")
	dir, _, _ := strings.Cut(rest, "\n")
	store, err := os.ReadFile(filepath.Join(dir, "atlantis.db"))
	require.NoError(t, err)
	require.Equal(t, "the store", string(store))
	page, err := os.ReadFile(filepath.Join(dir, pageFile))
	require.NoError(t, err)
	require.Contains(t, string(page), "client 1 acquire for user:bob")
	problems, err := os.ReadFile(filepath.Join(dir, problemsFile))
	require.NoError(t, err)
	require.Contains(t, string(problems), "nothing explains")

	// It can be judged again, and says the same.
	require.Contains(t, test.errors[0], "ATLANTIS_LOCKS_HISTORY="+filepath.Join(dir, historyFile))
	again, err := Load(filepath.Join(dir, historyFile))
	require.NoError(t, err)
	require.Equal(t, h, again)
	require.Equal(t, h.Judge(), again.Judge())
}

func TestNothingIsKeptOfALegalRun(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "does-not-exist"))
	h := sequence(acquire(alice, "1").got(10))
	test := &failing{name: "TestX"}
	require.True(t, h.Keep(test, h.Judge()))
	require.Empty(t, test.errors)
}

func TestLoadWhatIsNoHistory(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte("text"), 0o600))
	_, err = Load(path)
	require.ErrorContains(t, err, path)
}

// SavedHistory is the environment variable that names one more history to judge.
const SavedHistory = "ATLANTIS_LOCKS_HISTORY"

// TestSavedHistories judges what earlier runs have kept: below testdata what
// once was judged wrongly or found a bug, and the one that SavedHistory names.
func TestSavedHistories(t *testing.T) {
	for _, legal := range []bool{true, false} {
		dir := map[bool]string{true: "legal", false: "illegal"}[legal]
		files, err := filepath.Glob(filepath.Join("testdata", dir, "*.json"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			h, err := Load(file)
			require.NoError(t, err)
			require.Equal(t, legal, h.Judge().Legal(), "%s: %v", file, h.Judge().Problems)
		}
	}
	file := os.Getenv(SavedHistory)
	if file == "" {
		return
	}
	h, err := Load(file)
	require.NoError(t, err)
	verdict := h.Judge()
	t.Logf("%s: %d operations from seed %d, %d grants, %d contended, %d unknown", file, len(h.Operations), h.Seed, verdict.Grants, verdict.Contended, verdict.Unknown)
	require.Empty(t, verdict.Problems)
}
