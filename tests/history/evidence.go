package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Names of what [History.Keep] saves.
const (
	historyFile  = "history.json"
	pageFile     = "history.html"
	problemsFile = "problems.txt"
)

// Evidence is one more file to keep of a failing run.
type Evidence struct {
	// Name is the file's.
	Name string
	// Write writes its content, such as a copy of the store.
	Write func(w io.Writer) error
}

// T is what [History.Keep] needs of a test.
type T interface {
	Helper()
	Name() string
	Errorf(format string, args ...any)
}

// Keep fails the test if the verdict is not legal. It then keeps the history
// with its seed, the checker's page and the other evidence in a directory that
// outlives the test, and names it. It reports whether the verdict is legal.
func (h *History) Keep(t T, verdict *Verdict, evidence ...Evidence) bool {
	t.Helper()
	if verdict.Legal() {
		return true
	}
	dir, err := h.save(t.Name(), verdict, evidence)
	t.Errorf("seed %d: the history is not legal:\n%s\nkept in %s\njudge it again with: ATLANTIS_LOCKS_HISTORY=%s go test -run TestSavedHistories -v ./tests/history",
		h.Seed, strings.Join(verdict.Problems, "\n"), dir, filepath.Join(dir, historyFile))
	if err != nil {
		t.Errorf("keeping the evidence: %v", err)
	}
	return false
}

// save goes on after an error: what can be kept is.
func (h *History) save(name string, verdict *Verdict, evidence []Evidence) (dir string, err error) {
	name = strings.Map(func(c rune) rune {
		if strings.ContainsRune(`/\:*?"<>| `, c) {
			return '_'
		}
		return c
	}, name)
	dir, err = os.MkdirTemp("", fmt.Sprintf("atlantis-locks-%s-seed-%d-", name, h.Seed))
	if err != nil {
		return "", err
	}
	var errs []error
	for _, e := range append([]Evidence{
		{historyFile, h.write},
		{problemsFile, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, strings.Join(verdict.Problems, "\n"))
			return err
		}},
		{pageFile, h.WriteHTML},
	}, evidence...) {
		errs = append(errs, writeFile(filepath.Join(dir, e.Name), e.Write))
	}
	return dir, errors.Join(errs...)
}

func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path) //nolint:gosec // a name from a test
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

func (h *History) write(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	return encoder.Encode(h)
}

// Load reads a history that Keep has saved.
func Load(path string) (*History, error) {
	data, err := os.ReadFile(path) //nolint:gosec // a name from a person
	if err != nil {
		return nil, err
	}
	h := new(History)
	if err := json.Unmarshal(data, h); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}
