package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"golang.org/x/sync/errgroup"
)

const (
	// migrateWorkers take locks at the same time, so that they share the waits for
	// the network or the disk.
	migrateWorkers = 128
	// maxPasses bounds how often a source that is in use is read.
	maxPasses = 10
)

// migration carries what one store has to another one. It repeats until two
// readings of the source agree.
type migration struct {
	from, to *migrationStore
	// update says that what an earlier run has put into the target follows the
	// source; what this run has put there always does.
	update bool
	dryRun bool
	// actor is who migrates, for the logs.
	actor  string
	env    environment
	report *migrateReport

	// prefix starts the IDs of the requests that took locks of this source.
	prefix string

	mu sync.Mutex // protects put
	// put is what this run has put there, by kind and key: for a lock its request
	// or, for stock, its form.
	put map[string]string
}

func newMigration(from, to *migrationStore, report *migrateReport, env environment) *migration {
	// A source is known again by where it is.
	where := from.path
	if from.client != nil {
		where = from.name() + "\n" + from.url.prefix
	}
	sum := sha256.Sum256([]byte(where))
	return &migration{
		from: from, to: to, report: report, env: env,
		prefix: "migrated:" + hex.EncodeToString(sum[:6]) + ":", put: make(map[string]string),
	}
}

// requestID identifies a lock of the source: the same one has the same ID in
// every run. One that only stock has recorded has no ID there, so its content
// stands for it.
func (m *migration) requestID(lock backends.InventoryLock) (string, error) {
	if lock.ID != "" {
		return m.prefix + lock.ID, nil
	}
	form, err := backends.StockForm(*lock.OriginalLock)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(lock.Resource.Namespace + "\n" + lock.Resource.Key() + "\n" + form))
	return m.prefix + hex.EncodeToString(sum[:16]), nil
}

// carry fills the target, and returns the last reading of the source, of which it
// gets the first. On an error the report says how far it came.
func (m *migration) carry(ctx context.Context, source *backends.Inventory) (*backends.Inventory, error) {
	before := ""
	for m.report.Passes = 1; ; m.report.Passes++ {
		target, err := m.to.inventory(ctx)
		if err != nil {
			return nil, err
		}
		if m.to.url.stock && !target.Stock {
			return nil, withHint(errors.New("the target has been used with more than stock Atlantis' format"),
				"write its URL without %q; it keeps stock's records as well, where there is one server or a file", stockScheme)
		}
		m.report.see(source)
		p := m.plan(source, target)
		if len(source.Locks) == 0 && len(p.locks) > 0 && m.update {
			return nil, withHint(fmt.Errorf("the source has no lock any more, and --update would release all %d that an earlier run has carried", len(p.locks)),
				"after --delete-source, and when a source was emptied otherwise, these are the only copies: leave --update out, and unlock in the target what is to go")
		}
		if m.dryRun {
			m.report.foresee(p)
			return source, nil
		}
		if err := m.apply(ctx, source, target, p); err != nil {
			return nil, err
		}
		now := fingerprint(source)
		// Nobody else can have a file open.
		if m.from.client == nil || now == before || m.report.Passes == maxPasses {
			return source, nil
		}
		before = now
		if source, err = m.from.inventory(ctx); err != nil {
			return nil, err
		}
	}
}

// fingerprint is the same for readings of a store that has not changed. Leases
// that are renewed all the time are no change.
func fingerprint(i *backends.Inventory) string {
	sum := sha256.New()
	for _, lock := range i.Locks {
		form, _ := backends.StockForm(*lock.OriginalLock) // what can't be written is told elsewhere
		for _, part := range []string{lock.Resource.Namespace, lock.Resource.Key(), lock.ID, lock.Owner, form} {
			sum.Write([]byte(part + "\n"))
		}
	}
	for _, values := range []map[string]string{i.Statuses, i.CommandLocks} {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			sum.Write([]byte(key + "\n" + values[key] + "\n"))
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// place is where a lock is in the target: what excludes it has the same place.
func (m *migration) place(resource enhanced.ResourceIdentifier) string {
	if m.to.url.stock {
		return resource.LegacyKey()
	}
	return resource.Namespace + "\n" + resource.Key()
}

// planned is what is to be done with one lock.
type planned struct {
	lock    *backends.InventoryLock // of the source, nil for one that is gone there
	request string
	// old is what is in its place, nil for nothing. It is released first if it
	// is out of date.
	old       *backends.InventoryLock
	outOfDate bool
}

// migrationPlan is what is to be done, and what is done already.
type migrationPlan struct {
	locks   []planned
	already int
	// impossible are locks that the target can't keep, and why.
	impossible map[string]string
	values     []plannedValue
}

// plannedValue is a status or the lock of a command that is to be changed.
type plannedValue struct {
	kind          backends.StockKind
	key, from, to string
}

func (m *migration) plan(source, target *backends.Inventory) *migrationPlan {
	p := &migrationPlan{impossible: make(map[string]string)}
	there := make(map[string]*backends.InventoryLock, len(target.Locks))
	for i := range target.Locks {
		there[m.place(target.Locks[i].Resource)] = &target.Locks[i]
	}
	seen := make(map[string]bool, len(source.Locks))
	for i := range source.Locks {
		lock := &source.Locks[i]
		place := m.place(lock.Resource)
		request, err := m.requestID(*lock)
		if err == nil {
			err = m.possible(lock)
		}
		if err != nil {
			p.impossible[lock.Resource.String()] = err.Error()
			continue
		}
		seen[place] = true
		old := there[place]
		switch {
		case old == nil:
			p.locks = append(p.locks, planned{lock: lock, request: request})
		case m.isCurrent(lock, old, request):
			p.already++
			if needsLease(lock, old) {
				p.locks = append(p.locks, planned{lock: lock, request: request, old: old})
			}
		case m.isOurs(old, place):
			p.locks = append(p.locks, planned{lock: lock, request: request, old: old, outOfDate: true})
		}
	}
	for place, old := range there {
		if !seen[place] && m.isOurs(old, place) {
			p.locks = append(p.locks, planned{old: old, outOfDate: true})
		}
	}
	m.planValues(p, backends.StockStatus, source.Statuses, target.Statuses)
	m.planValues(p, backends.StockCommandLock, source.CommandLocks, target.CommandLocks)
	return p
}

// possible says why the target can't keep a lock.
func (m *migration) possible(lock *backends.InventoryLock) error {
	if !m.to.url.stock {
		return nil
	}
	switch {
	case lock.Resource.Type != enhanced.ResourceTypeProject:
		return errors.New("it was not carried: stock Atlantis locks projects only")
	case lock.Lease != enhanced.NoTimeout && lock.State != enhanced.LockStatePending:
		return errors.New("it was not carried: it has a lease, and stock Atlantis' locks never end by themselves")
	}
	return nil
}

// isCurrent reports whether what is in the place of a lock is that lock.
func (m *migration) isCurrent(lock, old *backends.InventoryLock, request string) bool {
	if m.to.url.stock {
		return backends.SameForm(lock.OriginalLock, old.OriginalLock)
	}
	if strings.HasPrefix(old.Request, m.prefix) {
		return old.Request == request
	}
	return old.Owner == lock.Owner
}

// isOurs reports whether this run has put a lock of the target there, or an
// earlier one that is to be continued.
func (m *migration) isOurs(old *backends.InventoryLock, place string) bool {
	m.mu.Lock()
	put, mine := m.put["lock "+place]
	m.mu.Unlock()
	if m.to.url.stock {
		form, err := backends.StockForm(*old.OriginalLock)
		return mine && err == nil && put == form
	}
	return strings.HasPrefix(old.Request, m.prefix) && (m.update || mine && put == old.Request)
}

// planValues plans the changes of one kind. What the source no longer has goes
// only if this run has put it there.
func (m *migration) planValues(p *migrationPlan, kind backends.StockKind, source, target map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(source)) {
		want, have := source[key], target[key]
		if have == "" || !sameValue(kind, key, want, have) && (m.update || m.put[valueName(kind, key)] == have) {
			p.values = append(p.values, plannedValue{kind, key, have, want})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(target)) {
		if have := target[key]; source[key] == "" && m.put[valueName(kind, key)] == have {
			p.values = append(p.values, plannedValue{kind, key, have, ""})
		}
	}
}

func valueName(kind backends.StockKind, key string) string {
	if kind == backends.StockStatus {
		return "status " + key
	}
	return "command " + key
}

// sameValue compares two values. A command that is locked is locked, whenever
// that was.
func sameValue(kind backends.StockKind, key, x, y string) bool {
	return kind == backends.StockCommandLock || backends.SameStatus(kind, key, x, y)
}

// apply does what is planned.
func (m *migration) apply(ctx context.Context, source, target *backends.Inventory, p *migrationPlan) error {
	if m.report.Passes == 1 {
		m.report.Locks.Already = p.already
	}
	progress := newProgress(m.env.stderr, len(p.locks)+len(p.values), "migrating")
	defer progress.finish()
	// Before any lock is taken, its token is above all that the source has given.
	if m.to.backend != nil {
		err := inParallel(ctx, slices.Sorted(maps.Keys(source.Tokens)), func(ctx context.Context, repository string) error {
			if target.Token(repository) >= source.Token(repository) {
				return nil
			}
			return m.to.backend.RaiseToken(ctx, repository, source.Token(repository))
		})
		if err != nil {
			return err
		}
	}
	err := inParallel(ctx, p.locks, func(ctx context.Context, step planned) error {
		defer progress.add(1)
		if m.to.url.stock {
			return m.putStock(ctx, step)
		}
		return m.take(ctx, step)
	})
	if err != nil {
		return err
	}
	return inParallel(ctx, p.values, func(ctx context.Context, v plannedValue) error {
		defer progress.add(1)
		return m.putValue(ctx, v)
	})
}

// inParallel calls fn for all values, some at a time, until one fails.
func inParallel[T any](ctx context.Context, values []T, fn func(ctx context.Context, value T) error) error {
	workers, working := errgroup.WithContext(ctx)
	workers.SetLimit(migrateWorkers)
	for _, value := range values {
		if working.Err() != nil {
			break
		}
		workers.Go(func() error { return fn(working, value) })
	}
	return errors.Join(workers.Wait(), ctx.Err())
}

// remember notes what this run has put there; "" for what it has taken away.
func (m *migration) remember(name, what string, counter *atomic.Int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if what == "" {
		delete(m.put, name)
	} else {
		m.put[name] = what
	}
	counter.Add(1)
}
