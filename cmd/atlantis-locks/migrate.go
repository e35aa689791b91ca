package main

import (
	"context"
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/spf13/cobra"
)

// migrateOptions are the flags of migrate.
type migrateOptions struct {
	from, to     string
	dryRun       bool
	update       bool
	deleteSource bool
}

func newMigrateCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --from URL --to URL",
		Short: "Carry locks from one store to another",
		Long: `Take every lock of one store in another one, with its owner, priority, metadata
and what is left of its lease, and carry the status of pull requests and the
locks of commands. Whether the source is one of stock Atlantis is seen by itself.
A target in the format of stock Atlantis alone has "` + stockScheme + `" before its URL.
Fencing tokens in the target go on above those of the source. Waiters are not
carried: they ask again. Neither are credentials, which stock keeps in its locks.

The source is only read, until two readings agree, so that it can be a Redis in
use; then both stores are compared. A file must not be open in another process.
No server may use the target yet. A migration that was interrupted goes on with
the same command. docs/migration.md has the steps.

` + storeURLHelp + `

Exits with 7 if something differs at the end, which the report names.`,
		Example: `  atlantis-locks migrate --from boltdb:/var/lib/atlantis/atlantis.db --to redis://redis.internal:6379 --dry-run
  atlantis-locks migrate --from redis://redis.internal:6379 --to redis://r1:6379,r2:6379,r3:6379
  atlantis-locks migrate --from redis://redis.internal:6379 --to stock+boltdb:/var/lib/atlantis/atlantis.db`,
		Args: wantArgs(),
	}
	output := addOutputFlag(cmd)
	var o migrateOptions
	flags := cmd.Flags()
	flags.StringVar(&o.from, "from", "", "store to read")
	flags.StringVar(&o.to, "to", "", "store to fill")
	flags.BoolVar(&o.dryRun, "dry-run", false, "only say what would happen")
	flags.BoolVar(&o.update, "update", false, "release or replace what an earlier run has carried and the source has no longer so; not once the target is in use")
	flags.BoolVar(&o.deleteSource, "delete-source", false, "empty the source, after a comparison without differences")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		from, to, err := o.stores(cmd, env)
		if err != nil {
			return err
		}
		report := &migrateReport{From: from.name(), To: to.name(), DryRun: o.dryRun}
		user, err := (&ownerFlags{}).userName(cmd, env)
		if err != nil {
			return errors.Join(err, from.close(), to.close())
		}
		m := newMigration(from, to, report, env)
		m.update, m.dryRun, m.actor = o.update, o.dryRun, enhanced.UserOwner(user).String()
		started, err := o.run(cmd.Context(), m)
		err = errors.Join(err, from.close(), to.close())
		if !started {
			return err
		}
		// What was done before a failure is reported too.
		report.settle()
		if *output == formatJSON {
			err = errors.Join(err, printJSON(env.stdout, report))
		} else {
			err = errors.Join(err, report.print(env.stdout))
		}
		if err != nil {
			return err
		}
		return report.outcome()
	}
	return cmd
}

// stores checks the flags.
func (o *migrateOptions) stores(cmd *cobra.Command, env environment) (from, to *migrationStore, err error) {
	if o.from == "" || o.to == "" {
		return nil, nil, usagef(cmd, "migrate needs --from URL and --to URL")
	}
	if o.dryRun && o.deleteSource {
		return nil, nil, usagef(cmd, "--dry-run and --delete-source exclude each other")
	}
	open := func(flag, text string, mayBeStock bool) (*migrationStore, error) {
		u, err := parseStoreURL(text, mayBeStock)
		if err != nil {
			return nil, usagef(cmd, "--%s: %v", flag, err)
		}
		if err := u.check(cmd, flag); err != nil {
			return nil, err
		}
		return newMigrationStore(cmd, env, u)
	}
	if from, err = open("from", o.from, false); err != nil {
		return nil, nil, err
	}
	if to, err = open("to", o.to, true); err != nil {
		return nil, nil, errors.Join(err, from.close())
	}
	return from, to, nil
}

// run migrates, compares, and empties the source if that is asked for. It reports
// whether there is something to report.
func (o *migrateOptions) run(ctx context.Context, m *migration) (started bool, err error) {
	switch what, err := m.from.overlaps(ctx, m.to); {
	case err != nil:
		return false, err
	case what != "":
		return false, withHint(errors.New("--from and --to overlap: "+what), "on one server or in one file there is nothing to migrate: locks of stock Atlantis count there from the start")
	}
	if err := m.from.open(true, false, m.env); err != nil {
		return false, err
	}
	// Before the target, so that none is made for a source that can't be read.
	source, err := m.from.inventory(ctx)
	if err != nil {
		return false, err
	}
	if err := m.to.open(o.dryRun, true, m.env); err != nil {
		return false, err
	}
	if !o.dryRun {
		if err := m.to.prepare(ctx, !m.to.url.stock); err != nil {
			return false, err
		}
	}
	if source, err = m.carry(ctx, source); err != nil {
		return true, err
	}
	target, err := m.to.inventory(ctx)
	if err != nil {
		return true, err
	}
	m.compare(source, target)
	if !o.deleteSource || len(m.report.Differences) > 0 {
		return true, nil
	}
	if err := m.deleteSource(ctx, source); err != nil {
		return true, err
	}
	m.report.SourceDeleted = true
	return true, nil
}
