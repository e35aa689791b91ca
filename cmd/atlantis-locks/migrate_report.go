package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
)

// migrateReport is what a migration did, as --output json shows it.
type migrateReport struct {
	From   string `json:"from"`
	To     string `json:"to"`
	DryRun bool   `json:"dry_run"`
	Passes int    `json:"passes"`
	// Locks, and what became of them.
	Locks struct {
		Source   int   `json:"source"`
		Taken    int64 `json:"taken"`
		Already  int   `json:"already"`
		Released int64 `json:"released"`
	} `json:"locks"`
	Statuses     int   `json:"statuses"`
	CommandLocks int   `json:"command_locks"`
	Written      int64 `json:"written"`
	Repositories int   `json:"repositories"`
	// NotCarried are what another store does not take over.
	NotCarried struct {
		Waiters      int `json:"waiters"`
		Reservations int `json:"reservations"`
	} `json:"not_carried"`
	// Compared is set once both stores were read again and compared.
	Compared      bool                `json:"compared"`
	SourceDeleted bool                `json:"source_deleted"`
	Differences   []migrateDifference `json:"differences"`

	taken, released, values atomic.Int64
	mu                      sync.Mutex // protects problems
	problems                map[string]string
}

// migrateDifference is something that the target has not as the source has it.
type migrateDifference struct {
	What   string `json:"what"`
	Record string `json:"record"`
	Detail string `json:"detail"`
}

// see enters what the source has.
func (r *migrateReport) see(source *backends.Inventory) {
	r.Locks.Source, r.Statuses, r.CommandLocks = len(source.Locks), len(source.Statuses), len(source.CommandLocks)
	r.Repositories = len(source.Tokens)
	r.NotCarried.Waiters, r.NotCarried.Reservations = source.Waiters, source.Reservations
}

// foresee enters what would be done.
func (r *migrateReport) foresee(p *migrationPlan) {
	r.Locks.Already = p.already
	for _, step := range p.locks {
		if step.outOfDate {
			r.released.Add(1)
		}
		if step.lock != nil && (step.old == nil || step.outOfDate) {
			r.taken.Add(1)
		}
	}
	r.values.Store(int64(len(p.values)))
}

// problem notes why a lock was not taken.
func (r *migrateReport) problem(record, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.problems == nil {
		r.problems = make(map[string]string)
	}
	r.problems[record] = detail
}

// differ adds a difference.
func (r *migrateReport) differ(what, record, format string, args ...any) {
	r.Differences = append(r.Differences, migrateDifference{what, record, fmt.Sprintf(format, args...)})
}

// compare enters what differs. A dry run compares with what would be.
func (m *migration) compare(source, target *backends.Inventory) {
	r := m.report
	p := m.plan(source, target)
	foreseen := make(map[string]bool)
	if m.dryRun {
		for _, step := range p.locks {
			if step.lock != nil {
				foreseen[m.place(step.lock.Resource)] = true
			}
		}
		for _, v := range p.values {
			foreseen[valueName(v.kind, v.key)] = true
		}
	}
	there := make(map[string]*backends.InventoryLock, len(target.Locks))
	for i := range target.Locks {
		there[m.place(target.Locks[i].Resource)] = &target.Locks[i]
	}
	for i := range source.Locks {
		lock := &source.Locks[i]
		name, place := lock.Resource.String(), m.place(lock.Resource)
		why := p.impossible[name]
		if !foreseen[place] && why == "" {
			why = m.lockDiffers(lock, there[place])
		}
		if why == "" && (foreseen[place] || there[place] != nil) {
			why = m.lost(lock)
		}
		if why != "" {
			r.differ("lock", name, "%s", why)
		}
	}
	gone := make(map[string]bool, len(source.Locks))
	for i := range source.Locks {
		gone[m.place(source.Locks[i].Resource)] = true
	}
	why := "the source has it no longer; --update releases it"
	if len(source.Locks) == 0 {
		why = "the source has no lock any more, as after --delete-source: this can be the only copy; to release it, unlock it in the target"
	}
	for i := range target.Locks {
		lock := &target.Locks[i]
		if !gone[m.place(lock.Resource)] && m.isFromEarlier(lock) && !(m.dryRun && m.update) {
			r.differ("lock", lock.Resource.String(), "an earlier run has carried it, and %s", why)
		}
	}
	m.compareValues("status", backends.StockStatus, source.Statuses, target.Statuses, foreseen)
	m.compareValues("command lock", backends.StockCommandLock, source.CommandLocks, target.CommandLocks, foreseen)
	if !m.to.url.stock && !m.dryRun {
		for _, repository := range slices.Sorted(maps.Keys(source.Tokens)) {
			if have, want := target.Token(repository), source.Token(repository); have < want {
				r.differ("token", repository, "the last one is %d; it has to be at least %d", have, want)
			}
		}
	}
	for _, problem := range source.Problems {
		r.differ("unreadable", problem.Record, "%s", problem.Detail)
	}
	r.Compared = true
}

// isFromEarlier reports whether a run from this source has put a lock there.
func (m *migration) isFromEarlier(lock *backends.InventoryLock) bool {
	return len(lock.Request) > len(m.prefix) && lock.Request[:len(m.prefix)] == m.prefix
}

// lockDiffers says how what is in a lock's place differs from it, "" if it does
// not.
func (m *migration) lockDiffers(lock, have *backends.InventoryLock) string {
	switch {
	case have == nil && hasLease(lock) && lock.Lease < leaseTolerance:
		return "" // it has ended
	case have == nil:
		if why := m.report.problems[lock.Resource.String()]; why != "" {
			return "it was refused: " + why
		}
		return "the target has it not"
	case m.to.url.stock && !backends.SameForm(lock.OriginalLock, have.OriginalLock):
		return fmt.Sprintf("in the target it is locked by pull request %d", have.OriginalLock.Pull.Num)
	case m.to.url.stock:
		return ""
	case have.Owner != lock.Owner && m.isFromEarlier(have):
		return fmt.Sprintf("an earlier run has carried that of %s; --update replaces it by that of %s", enhanced.DescribeOwner(have.Owner), enhanced.DescribeOwner(lock.Owner))
	case have.Owner != lock.Owner:
		return fmt.Sprintf("in the target it is locked by %s, here by %s", enhanced.DescribeOwner(have.Owner), enhanced.DescribeOwner(lock.Owner))
	case have.Priority != lock.Priority:
		return fmt.Sprintf("its priority is %s in the target and %s here", have.Priority, lock.Priority)
	case !maps.Equal(have.Metadata, lock.Metadata):
		return "its metadata differs"
	case !backends.SameForm(lock.OriginalLock, have.OriginalLock):
		return "what Atlantis reads of it (user, time or pull request) differs"
	case hasLease(lock) != hasLease(have):
		return "it has a lease in one of the stores only"
	case needsLease(lock, have):
		return fmt.Sprintf("its lease ends %v apart", (lock.Lease - have.Lease).Abs())
	}
	return ""
}

func (m *migration) compareValues(what string, kind backends.StockKind, source, target map[string]string, foreseen map[string]bool) {
	for _, key := range slices.Sorted(maps.Keys(source)) {
		switch have := target[key]; {
		case foreseen[valueName(kind, key)]:
		case have == "":
			m.report.differ(what, key, "the target has it not")
		case !sameValue(kind, key, source[key], have):
			m.report.differ(what, key, "the target has another one; --update replaces it")
		}
	}
	if kind == backends.StockCommandLock {
		for _, key := range slices.Sorted(maps.Keys(target)) {
			if source[key] == "" {
				m.report.differ(what, key, "only the target has it")
			}
		}
	}
}

// settle takes over the counters.
func (r *migrateReport) settle() {
	r.Locks.Taken, r.Locks.Released, r.Written = r.taken.Load(), r.released.Load(), r.values.Load()
	if r.Differences == nil {
		r.Differences = []migrateDifference{}
	}
}

func (r *migrateReport) print(w io.Writer) error {
	if len(r.Differences) > 0 {
		rows := [][]string{{"WHAT", "RECORD", "DIFFERENCE"}}
		for _, d := range r.Differences {
			rows = append(rows, []string{d.What, printable(d.Record), escape(d.Detail)})
		}
		if err := printTable(w, rows); err != nil {
			return err
		}
		fmt.Fprintln(w) // the last line returns the error
	}
	taken, released, written := "taken", "released", "written"
	if r.DryRun {
		taken, released, written = "would be taken", "would be released", "would be written"
	}
	fmt.Fprintf(w, "from %s\nto %s\n", escape(r.From), escape(r.To))
	fmt.Fprintf(w, "%s: %d %s, %d there already, %d %s in the target\n", count(r.Locks.Source, "lock"), r.Locks.Taken, taken, r.Locks.Already, r.Locks.Released, released)
	fmt.Fprintf(w, "%s and %s: %d %s\n", countStatuses(r.Statuses), count(r.CommandLocks, "command lock"), r.Written, written)
	if n := r.NotCarried; n.Waiters+n.Reservations > 0 {
		fmt.Fprintf(w, "not carried: %s, who ask again, and %s\n", count(n.Waiters, "waiter"), count(n.Reservations, "reservation"))
	}
	if r.SourceDeleted {
		fmt.Fprintln(w, "the source is empty now")
	}
	switch {
	case !r.Compared:
		_, err := fmt.Fprintln(w, "not finished; the same command goes on")
		return err
	case r.DryRun:
		_, err := fmt.Fprintf(w, "nothing was changed; %s foreseen\n", count(len(r.Differences), "difference"))
		return err
	default:
		_, err := fmt.Fprintf(w, "compared: %s\n", count(len(r.Differences), "difference"))
		return err
	}
}

func countStatuses(n int) string {
	if n == 1 {
		return "1 pull status"
	}
	return fmt.Sprintf("%d pull statuses", n)
}

// outcome returns the error that gives the command its exit code.
func (r *migrateReport) outcome() error {
	if len(r.Differences) == 0 {
		return nil
	}
	return &codedError{code: exitViolations, err: withHint(errors.New(count(len(r.Differences), "difference")),
		"the report says what differs; the migration can be repeated")}
}
