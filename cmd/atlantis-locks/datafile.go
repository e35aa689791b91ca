package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// dataFileName is the name that stock Atlantis gives its file.
	dataFileName = "atlantis.db"
	// openTimeout is how long to wait for another process to close the file.
	openTimeout = time.Second
)

// openDataFile opens the file of locks in directory, for this process alone.
// It makes what is missing. A file that can't be read whole is refused without
// having been written to. The damages are for the server's log.
func openDataFile(directory string) (db *bbolt.DB, damages []backends.FileDamage, err error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, nil, withHint(fmt.Errorf("can't make the data directory: %w", err), "name another directory with --data-dir")
	}
	path := filepath.Join(directory, dataFileName)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, fmt.Errorf("can't look at the data file: %w", err)
	case info.Mode().Type() != 0:
		return nil, nil, withHint(fmt.Errorf("refusing to open %q: it is %s, not a plain file", path, describeMode(info.Mode())),
			"name the directory that has the file itself with --data-dir")
	case info.Size() > 0:
		if damages, err = checkDataFile(path); err != nil {
			return nil, nil, err
		}
	}
	db, err = openBolt(path, writeOptions())
	return db, damages, err
}

// writeOptions are for a file that a backend writes. That commits without bbolt's list
// of free pages; without the option, opening the file would write one.
func writeOptions() *bbolt.Options {
	return &bbolt.Options{Timeout: openTimeout, NoFreelistSync: true}
}

func describeMode(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode.IsDir():
		return "a directory"
	default:
		return "of type " + mode.Type().String()
	}
}

// checkDataFile checks all pages of a file without writing to it. bbolt would
// open a damaged one, and end the process at the first write. It returns what
// does not forbid to use the file.
func checkDataFile(path string) (usable []backends.FileDamage, err error) {
	db, err := openBolt(path, &bbolt.Options{ReadOnly: true, Timeout: openTimeout})
	if err != nil {
		return nil, err
	}
	damages, err := backends.CheckBoltFile(db)
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, fmt.Errorf("can't check %q: %w", path, withoutPath(err))
	}
	var causes []string
	for _, damage := range damages {
		if damage.Usable {
			usable = append(usable, damage)
		} else {
			causes = append(causes, damage.Detail)
		}
	}
	if len(causes) > 0 {
		return nil, damaged(path, errors.New(strings.Join(causes, "; ")))
	}
	return usable, nil
}

// readDataFile opens a file read-only and calls read.
func readDataFile(path string, read func(*bbolt.Tx) error) (err error) {
	db, err := openBolt(path, &bbolt.Options{ReadOnly: true, Timeout: openTimeout})
	if err != nil {
		return err
	}
	tx, err := db.Begin(false)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	// After a panic the transaction and the file stay open: closing either
	// would touch the same pages. The process is about to end.
	if err := recovering(path, func() error { return read(tx) }); err != nil {
		return err
	}
	return errors.Join(tx.Rollback(), db.Close())
}

// openBolt is bbolt.Open with errors that name the file and say what to do.
func openBolt(path string, options *bbolt.Options) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := recovering(path, func() (err error) {
		db, err = bbolt.Open(path, 0o600, options)
		return err
	})
	system := syscall.Errno(0)
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, withHint(fmt.Errorf("%q is open in another process, Atlantis or atlantis-locks", path),
			"one process can have the file open: stop the other one, or work with a copy of the file that was made while nothing had it open")
	case errors.As(err, &system):
		return nil, fmt.Errorf("can't open %q: %w", path, withoutPath(err))
	case isDamaged(err):
		return nil, err
	default:
		return nil, damaged(path, err)
	}
}

// recovering calls f and turns into an error what bbolt does when a page is
// not what it should be: it panics, or reads mapped memory beyond the end of a
// truncated file.
func recovering(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if problem := recover(); problem != nil {
			err = damaged(path, fmt.Errorf("%v", problem))
		}
	}()
	return f()
}

// damagedError says that the content of a file is not what it should be.
type damagedError struct {
	path  string
	cause error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("%q is damaged, or not a file of Atlantis' locks; it was not touched: %v", e.path, e.cause)
}

func damaged(path string, cause error) error {
	return withHint(&damagedError{path, cause}, "put back a copy of the file that was made while nothing had it open")
}

func isDamaged(err error) bool {
	e := (*damagedError)(nil)
	return errors.As(err, &e)
}

// withoutPath drops the path that the caller names itself.
func withoutPath(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
