package backends

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// Inventory is what a store holds that another store can take over. Nothing in
// it has a credential. Reading one changes nothing in the store, not even what
// is due in it: a lease that has ended is just left out.
type Inventory struct {
	// Stock says that the store has never been used by anything but stock Atlantis.
	Stock bool
	// Locks are in the order of ListLocks.
	Locks []InventoryLock
	// Tokens has the last fencing token of each repository, by its name; see
	// [Inventory.Token].
	Tokens map[string]int64
	// Statuses has the status of pull requests, as stock writes it, by stock's key.
	Statuses map[string]string
	// CommandLocks has the locks of commands, as stock writes them, by
	// "COMMAND/lock".
	CommandLocks map[string]string
	// Waiters counts who waits, Reservations the locks that are kept for a pull
	// request which plans again. Another store does not take those over.
	Waiters, Reservations int
	// Problems are records that can't be read, or that contradict another one
	// which counts.
	Problems []InventoryProblem

	counter int64 // of all repositories, where there is one
}

// InventoryLock is a held lock.
type InventoryLock struct {
	// EnhancedLock has no ID and no Version if stock Atlantis alone has recorded
	// the lock.
	*enhanced.EnhancedLock
	// Request is the ID of the request that got it, where it is known.
	Request string
	// Lease is how long it lasted when it was read, by the store's clock,
	// [enhanced.NoTimeout] for a lock without lease. A lock that a waiter has to
	// claim yet is [enhanced.LockStatePending] and has the time for that.
	Lease time.Duration
}

// InventoryProblem is a record that is not part of an inventory.
type InventoryProblem struct {
	Record, Detail string
}

// Token returns the last fencing token of a repository, 0 for none. In a bbolt
// file it is also that of repositories which are not there yet.
func (i *Inventory) Token(repository string) int64 {
	return max(i.Tokens[repository], i.counter)
}

func newInventory() *Inventory {
	return &Inventory{Tokens: make(map[string]int64), Statuses: make(map[string]string), CommandLocks: make(map[string]string)}
}

func (i *Inventory) problem(record, format string, args ...any) {
	i.Problems = append(i.Problems, InventoryProblem{record, fmt.Sprintf(format, args...)})
}

const unreadableDetail = "it can't be read; what it locks counts as held here, and is not carried"

// add adds a lock with its lease at a time of the store's.
func (i *Inventory) add(lock *enhanced.EnhancedLock, request string, expires, now int64) {
	entry := InventoryLock{EnhancedLock: lock, Request: request, Lease: enhanced.NoTimeout}
	original := enhanced.SanitizeProjectLock(*lock.OriginalLock)
	lock.OriginalLock = &original
	if expires != 0 {
		entry.Lease = time.Duration(expires-now) * time.Microsecond
	}
	i.Locks = append(i.Locks, entry)
}

// addStock adds what stock Atlantis has under its keys, but for the copies of
// locks that are there already. Those under present keys come first: they count
// where there are two.
func (i *Inventory) addStock(values []stockValue, prefix string) {
	held := make(map[string]*enhanced.EnhancedLock, len(i.Locks))
	for _, lock := range i.Locks {
		if hasStockKey(lock.Resource) {
			held[stockKey(lock.Resource)] = lock.EnhancedLock
		}
	}
	slices.SortStableFunc(values, func(x, y stockValue) int {
		switch {
		case x.isOld() == y.isOld():
			return strings.Compare(x.key, y.key)
		case x.isOld():
			return 1
		default:
			return -1
		}
	})
	for _, v := range values {
		record := prefix + strings.TrimPrefix(v.key, stockPrefix)
		switch err := v.check(); {
		case v.problem != "":
			i.problem(record, unreadableDetail)
			continue
		case err != nil:
			i.problem(record, "%v; it is not carried", err)
			continue
		}
		owner := enhanced.ProjectLockOwner(*v.original)
		if other := held[stockKey(v.resource)]; other != nil {
			holder, err := enhanced.ParseOwner(other.Owner)
			if err != nil || !isSamePull(holder, owner) {
				i.problem(record, "%s also has %s, which %s holds; it is not carried", owner.Describe(), v.resource, enhanced.DescribeOwner(other.Owner))
			}
			continue
		}
		lock := unrecorded(v.resource, v.original)
		held[stockKey(v.resource)] = lock
		i.add(lock, "", 0, 0)
	}
}

func (i *Inventory) addStatus(record, key, value string) {
	status, err := decodeStatus(key, value)
	if err != nil || status == nil {
		i.problem(record, "the status can't be read, and is not carried")
		return
	}
	text, err := encodeStatus(*status)
	if err != nil {
		i.problem(record, "the status can't be written, and is not carried")
		return
	}
	i.Statuses[key] = text
}

func (i *Inventory) addCommandLock(record, key, value string) {
	if lock, err := decodeCommand("read an inventory", record, value); err != nil || lock == nil {
		i.problem(record, "the lock of a command can't be read, and is not carried")
		return
	}
	i.CommandLocks[key] = value
}

// finish puts all in order.
func (i *Inventory) finish() *Inventory {
	slices.SortFunc(i.Locks, func(x, y InventoryLock) int { return byResource(x.EnhancedLock, y.EnhancedLock) })
	slices.SortFunc(i.Problems, func(x, y InventoryProblem) int { return strings.Compare(x.Record, y.Record) })
	return i
}

// SameForm reports whether stock's form of two locks is the same.
func SameForm(x, y *models.ProjectLock) bool {
	if x == nil || y == nil || !x.Time.Equal(y.Time) {
		return false
	}
	a, b := *x, *y
	b.Time = a.Time
	left, err := encodeProjectLock(a)
	right, otherErr := encodeProjectLock(b)
	return errors.Join(err, otherErr) == nil && bytes.Equal(left, right)
}
