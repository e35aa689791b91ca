package enhanced

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/logging"
)

// CompatibilityChecker tries whether Atlantis could use a database: whether what
// Atlantis calls does what Atlantis counts on. Make it with
// [NewCompatibilityChecker].
//
// It takes and releases real locks, on two repositories of its own with random
// names below [CompatibilityNamespace]; nothing else is locked or unlocked. For
// some milliseconds they stand in List, and so on Atlantis' page. What it takes
// it gives back, also when a check fails or the context ends. Their records stay
// in the log, as those of all locks do, and with the queue on, for TombstoneTTL, the
// mark of a pull request that was closed. The global lock of apply is only looked
// at: held, it would stop everybody. How such locks work is tried with the
// command "version", which Atlantis never locks and whose lock it never asks for.
type CompatibilityChecker struct {
	database db.Database
	logger   logging.SimpleLogging
}

// CompatibilityNamespace starts the names of the repositories that a
// [CompatibilityChecker] locks in.
const CompatibilityNamespace = "atlantis-locks-check-"

const (
	// cleanupTimeout bounds what a compatibility test does after its context has
	// ended.
	cleanupTimeout = 30 * time.Second
	// scratchCommand is the command whose lock a test may take.
	scratchCommand = command.Version
)

// The results of a [CompatibilityCheck].
const (
	CompatibilityPassed  = "passed"
	CompatibilityFailed  = "failed"
	CompatibilitySkipped = "skipped"
)

// CompatibilityReport is what a compatibility test has found.
type CompatibilityReport struct {
	// Success says that every check has passed: none failed, none was skipped.
	Success bool
	// Checks are in the order in which they were made.
	Checks []CompatibilityCheck
}

// CompatibilityCheck is one of the checks of a report.
type CompatibilityCheck struct {
	// Name says what was tried. The names are stable.
	Name string
	// Duration is how long it took.
	Duration time.Duration
	// Result is CompatibilityPassed, CompatibilityFailed or CompatibilitySkipped.
	Result string
	// Detail says what went wrong, or why it was skipped. Empty when passed.
	Detail string
	// Remedy says what to do about it. Empty when passed.
	Remedy string
}

// NewCompatibilityChecker returns a checker of an adapter, or of another
// database for Atlantis, such as one that wraps an adapter. While Enabled is
// false for an adapter, the test is of what it would do with Enabled set: that
// is what an operator wants to know before.
func NewCompatibilityChecker(adapter db.Database, logger logging.SimpleLogging) *CompatibilityChecker {
	if a, ok := adapter.(*LockingAdapter); ok && a != nil && !a.IsEnhancedModeEnabled() {
		config := a.state.Load().config.WithDefaults() // a copy
		// A fallback would count with nobody else in the legacy database, which the
		// adapter itself still decides by.
		config.Enabled, config.LegacyFallback = true, false
		trial := NewLockingAdapter(a.manager, a.backend, config, a.legacy, a.logger)
		trial.noted.Store(true) // the adapter itself goes on
		adapter = trial
	}
	return &CompatibilityChecker{database: adapter, logger: LoggerOrNoop(logger)}
}

// RunCompatibilityTest makes all checks, within a few seconds, and returns what
// they found. The report is never nil. The error is not nil when the context
// ended before all checks were made, which are then in the report as skipped;
// checks that fail are no error. The check of legacy locks is made where the
// adapter has a legacy database. Since Atlantis' methods have no context, one
// that has begun ends within OperationTimeout.
// It is safe for concurrent use, on one store too.
func (c *CompatibilityChecker) RunCompatibilityTest(ctx context.Context) (*CompatibilityReport, error) {
	run := &compatibilityRun{
		ctx: ctx, database: c.database,
		repository: CompatibilityNamespace + strings.ToLower(rand.Text()) + "/app",
		taken:      make(map[scratchPull]bool),
	}
	if embedding, ok := c.database.(interface{ innermost() *LockingAdapter }); ok {
		run.adapter = embedding.innermost()
	}
	report := &CompatibilityReport{Success: true}
	unusable := error(nil)
	for _, check := range run.checks() {
		if unusable == nil {
			unusable = ctx.Err()
		}
		started, err := time.Now(), error(nil)
		if unusable != nil {
			err = skipped("%v", unusable)
		} else {
			err = check.try()
		}
		if check.name == checkAnswers && err != nil {
			unusable = errors.New("the database does not answer")
		}
		c.enter(report, check, time.Since(started), err)
	}
	started := time.Now()
	dirty := run.cleanUp()
	c.enter(report, compatibilityTry{
		name:   "clean up",
		remedy: "release what the detail names, with \"atlantis-locks unlock\" or on Atlantis' page",
	}, time.Since(started), dirty)
	return report, ctx.Err()
}

// RunCompatibilityTest is that of a [CompatibilityChecker], on an adapter with
// this manager, its configuration and no legacy database.
func (m *EnhancedLockManager) RunCompatibilityTest(ctx context.Context) (*CompatibilityReport, error) {
	config := m.state.Load().config.WithDefaults() // a copy
	config.Enabled = true
	return NewCompatibilityChecker(NewLockingAdapter(m, m.backend, config, nil, m.logger), m.logger).RunCompatibilityTest(ctx)
}

// innermost returns the adapter, to what embeds it too.
func (a *LockingAdapter) innermost() *LockingAdapter { return a }

// compatibilityTry is one check to make.
type compatibilityTry struct {
	name, remedy string
	try          func() error
}

// enter notes what came of a check.
func (c *CompatibilityChecker) enter(report *CompatibilityReport, check compatibilityTry, took time.Duration, err error) {
	entry := CompatibilityCheck{Name: check.name, Duration: took, Result: CompatibilityPassed}
	if err != nil {
		entry.Result, entry.Detail, entry.Remedy = CompatibilityFailed, err.Error(), check.remedy
		own := (*checkError)(nil)
		if errors.As(err, &own) {
			if own.skipped {
				entry.Result, entry.Remedy = CompatibilitySkipped, "make the test again"
			}
		} else if errors.Is(err, ErrPermissionDenied) {
			entry.Remedy = "allow it: by deny_system_unlock or an authorizer Atlantis may not do what it needs to"
		}
		report.Success = false
		c.logger.Warn("compatibility test: %s: %s: %s", entry.Name, entry.Result, entry.Detail)
	}
	report.Checks = append(report.Checks, entry)
}

// checkError is what a check has found, other than an error of the database.
type checkError struct {
	detail  string
	skipped bool
}

func (e *checkError) Error() string { return e.detail }

func found(format string, args ...any) error {
	return &checkError{detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) error {
	return &checkError{detail: fmt.Sprintf(format, args...), skipped: true}
}

// cleanUp gives back whatever the test may have taken, beneath a database that
// does not do what it should, and looks whether that is so.
func (r *compatibilityRun) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), cleanupTimeout)
	defer cancel()
	var failed []error
	clean := func(name string, give func() error) {
		err := ctx.Err()
		if err == nil {
			err = give()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	databases := []db.Database{r.database}
	if r.adapter != nil {
		databases[0] = r.adapter
		if r.adapter.legacy != nil {
			databases = append(databases, r.adapter.legacy)
		}
	}
	for _, pull := range sortedPulls(r.taken) {
		name := fmt.Sprintf("unlock pull request %d of %s", pull.number, pull.repository)
		for i, database := range databases {
			clean(name, func() error {
				// Not by UnlockByPull, which can be denied to Atlantis.
				if i == 0 && r.adapter != nil && r.adapter.manager != nil {
					_, err := r.adapter.manager.ReleaseByPull(ctx, pull.repository, pull.number, SystemAtlantis)
					return err
				}
				_, err := database.UnlockByPull(pull.repository, pull.number)
				return err
			})
		}
	}
	if r.hasStatus {
		clean("delete the status of "+r.repository, func() error {
			return databases[0].DeletePullStatus(scratchPull{r.repository, statusPull}.pullRequest())
		})
	}
	if r.commandLock != 0 {
		clean("unlock the command "+scratchCommand.String(), func() error {
			lock, err := databases[0].CheckCommandLock(scratchCommand)
			if lock == nil || err != nil || lock.LockMetadata.UnixTime != r.commandLock {
				return err
			}
			return databases[0].UnlockCommand(scratchCommand)
		})
	}
	for _, database := range databases {
		clean("list what is left", func() error {
			locks, err := database.List()
			for _, lock := range locks {
				if r.isScratch(lock) {
					err = errors.Join(err, found("%s is locked by pull request %d", ProjectResource(lock.Project, lock.Workspace), lock.Pull.Num))
				}
			}
			return err
		})
	}
	return errors.Join(failed...)
}

func sortedPulls(taken map[scratchPull]bool) []scratchPull {
	var pulls []scratchPull
	for pull := range taken {
		pulls = append(pulls, pull)
	}
	slices.SortFunc(pulls, func(x, y scratchPull) int {
		if x.repository != y.repository {
			return strings.Compare(x.repository, y.repository)
		}
		return x.number - y.number
	})
	return pulls
}
