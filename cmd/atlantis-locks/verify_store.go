package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"go.etcd.io/bbolt"
)

// store is what verify checks.
type store interface {
	name() string
	verify(ctx context.Context) ([]api.Violation, error)
	// repair returns what it repaired, and what is left.
	repair(ctx context.Context, actor, reason string) (repaired, remaining []api.Violation, err error)
}

// serverStore is the store of a server, in use.
type serverStore struct{ *client.Client }

func (s serverStore) name() string { return s.Server() }

func (s serverStore) verify(ctx context.Context) ([]api.Violation, error) {
	verification, err := s.Verify(ctx)
	return verification.Violations, err
}

func (s serverStore) repair(ctx context.Context, actor, reason string) (repaired, remaining []api.Violation, err error) {
	repair, err := s.Repair(ctx, api.RepairRequest{Actor: actor, Reason: reason})
	return repair.Repaired, repair.Remaining, err
}

// fileStore is a file at rest.
type fileStore struct{ path string }

func (s fileStore) name() string { return s.path }

func (s fileStore) verify(context.Context) (found []api.Violation, err error) {
	err = s.with(&bbolt.Options{ReadOnly: true, Timeout: openTimeout}, func(db *bbolt.DB) error {
		violations, err := backends.VerifyBolt(db)
		found = violationViews(violations)
		return err
	})
	return found, err
}

func (s fileStore) repair(ctx context.Context, actor, reason string) (repaired, remaining []api.Violation, err error) {
	err = s.with(writeOptions(), func(db *bbolt.DB) error {
		done, err := backends.RepairBolt(ctx, db, enhanced.UserOwner(actor).String(), reason)
		if err != nil {
			return err
		}
		left, err := backends.VerifyBolt(db)
		repaired, remaining = violationViews(done), violationViews(left)
		return err
	})
	return repaired, remaining, err
}

// with opens the file, which must be there, and calls use.
func (s fileStore) with(options *bbolt.Options, use func(db *bbolt.DB) error) error {
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return withHint(fmt.Errorf("there is no file %q", s.path), "the locks are in %s of the server's --data-dir", dataFileName)
	case err != nil:
		return fmt.Errorf("can't read %q: %w", s.path, withoutPath(err))
	case !info.Mode().IsRegular():
		return withHint(fmt.Errorf("can't read %q: it is %s", s.path, describeMode(info.Mode())), "name the file itself, DIR/%s", dataFileName)
	case info.Size() == 0:
		// bbolt would make a store of it.
		return fmt.Errorf("%q is empty", s.path)
	}
	db, err := openBolt(s.path, options)
	if err != nil {
		return err
	}
	// After a panic the file stays open, as in readDataFile.
	var failed error
	if err := recovering(s.path, func() error { failed = use(db); return nil }); err != nil {
		return err
	}
	return errors.Join(failed, db.Close())
}

func violationViews(violations []enhanced.Violation) []api.Violation {
	views := make([]api.Violation, len(violations))
	for i, v := range violations {
		views[i] = api.Violation(v)
	}
	return views
}
