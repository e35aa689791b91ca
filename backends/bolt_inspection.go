package backends

import (
	"bytes"
	"fmt"
	"strconv"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"go.etcd.io/bbolt"
)

// inspection checks one repository against the rules of a store. It reads
// only; what it finds knows how to repair itself.
type inspection struct {
	*repository
	store    storeState
	problems []problem

	// claimed are the keys of stock's records that a lock has as its copy.
	claimed map[string]struct{}
	// seen are the locks that were read, by their resource and without stock's form of them.
	seen map[string]*lockRecord
	// moved are locks that are stored under another key than their own, by the
	// key of their resource.
	moved map[string]*lockRecord
	// unreadable has, for each resource whose lock can't be read, the entries
	// that lead to it.
	unreadable map[string]*[][]byte
	// reclaimed are the locks to which their ID does not lead, by token.
	reclaimed map[int64]reclaimedLock
	// highest is the largest token in use.
	highest int64

	log logInspection
	// order is the one that waiters are ranked by.
	order queue.Order
}

type reclaimedLock struct {
	resourceKey string
	record      *lockRecord
}

func newInspection(r *repository, store storeState) *inspection {
	return &inspection{
		repository: r,
		store:      store,
		claimed:    make(map[string]struct{}),
		seen:       make(map[string]*lockRecord),
		moved:      make(map[string]*lockRecord),
		unreadable: make(map[string]*[][]byte),
		reclaimed:  make(map[int64]reclaimedLock),
	}
}

// run checks everything. The log comes first, then the locks, then what leads
// to them: each is judged by what was learned before it.
func (c *inspection) run() {
	if !c.checkName() {
		return
	}
	c.checkLog()
	c.eachEntry(rangeLock, c.checkLock)
	c.checkLostLocks()
	c.checkAging()
	c.eachEntry(0, c.checkEntry)
	c.checkCounter()
}

// eachEntry calls check for the entries of a range, for all when letter is 0.
func (c *inspection) eachEntry(letter byte, check func(key, value []byte)) {
	cursor := c.bucket.Cursor()
	for key, value := cursor.Seek([]byte{letter}); key != nil; key, value = cursor.Next() {
		if letter != 0 && key[0] != letter {
			return
		}
		if value == nil && c.bucket.Bucket(key) != nil {
			if letter == 0 && !bytes.Equal(key, archiveKey()) {
				c.report(enhanced.RuleUnknownEntry, key, "it is a bucket; the store's format has none here")
			}
			continue
		}
		check(key, value)
	}
}

// report adds a problem and returns it, for its repair to be set.
func (c *inspection) report(rule string, key []byte, format string, args ...any) *problem {
	c.problems = append(c.problems, problem{Violation: enhanced.Violation{
		Rule:       rule,
		Record:     entryName([]byte(c.tag), printableKey(key)),
		Repository: c.name,
		Detail:     fmt.Sprintf(format, args...),
	}})
	return &c.problems[len(c.problems)-1]
}

// repairs says how the problem is repaired.
func (p *problem) repairs(text string, fix repairFunc) *problem {
	p.Repair, p.fix = text, fix
	return p
}

// about says which resource the problem is about.
func (p *problem) about(resourceKey string) *problem {
	p.resourceKey = resourceKey
	return p
}

// writes says that the repair adds entries.
func (p *problem) writes() *problem {
	p.adds = true
	return p
}

// removes is a repair that deletes an entry which follows from others.
func (p *problem) removes(key []byte) *problem {
	key = bytes.Clone(key)
	return p.repairs("remove it", func(s *repositoryStep, _ change) error { return s.delete(key) })
}

// printableKey writes the numbers of a key in decimal.
func printableKey(key []byte) []byte {
	if len(key) < 9 {
		return key
	}
	var out []byte
	rest := key[1:]
	switch key[0] {
	case rangeID, rangeLog:
	case rangeDeadline, rangeForget:
	default:
		return key
	}
	out = strconv.AppendInt(append(out, key[0]), number(rest[:8]), 10)
	if rest = rest[8:]; key[0] == rangeForget && len(rest) == 8 {
		return strconv.AppendInt(append(out, ' '), number(rest), 10)
	}
	if len(rest) > 0 {
		out = append(append(out, ' '), rest...)
	}
	return out
}

// checkName reports whether the repository's name is known. Where it is not
// stored as it should be, it is looked for in what else is stored: the tag
// proves it.
func (c *inspection) checkName() bool {
	stored := c.bucket.Get(nameKey())
	if enhanced.RepositoryTag(string(stored)) == c.tag {
		return true
	}
	detail := "the repository has no name"
	if stored != nil {
		detail = fmt.Sprintf("the name %q belongs to another tag", stored)
	}
	if name, found := c.findName(); found {
		known := *c.repository
		known.name = name
		c.repository = &known
		c.report(enhanced.RuleRepositoryName, nameKey(), "%s", detail).writes().
			repairs("write its name, which its tag proves", func(s *repositoryStep, _ change) error {
				return s.put(nameKey(), []byte(s.name))
			})
		return true
	}
	c.name = ""
	c.report(enhanced.RuleRepositoryName, nameKey(),
		"%s, and nothing in it says which repository it is; the rest of it was not checked", detail)
	return false
}

// findName looks for the name with the repository's tag in owners and locks.
func (c *inspection) findName() (string, bool) {
	if enhanced.RepositoryTag(c.name) == c.tag {
		return c.name, true
	}
	var found *string
	try := func(name string) {
		if found == nil && enhanced.RepositoryTag(name) == c.tag {
			found = &name
		}
	}
	tryOwner := func(text string) {
		if owner, err := enhanced.ParseOwner(text); err == nil {
			try(owner.Repository)
		}
	}
	tryRecord := func(value []byte) {
		if record, err := readLogRecord(c.name, value); err == nil {
			tryOwner(record.Actor)
			tryOwner(record.owner())
			if record.Before != nil {
				tryOwner(record.Before.Owner)
			}
		}
	}
	c.eachArchived(func(_, value []byte) { tryRecord(value) })
	c.eachEntry(0, func(key, value []byte) {
		switch key[0] {
		case rangeLock:
			if record, err := decodeLockRecord(c.name, value); err == nil {
				tryOwner(record.Owner)
				if lock, err := decodeProjectLock(record.Lock); err == nil {
					try(lock.Project.RepoFullName)
				}
			}
		case c.rangeOfLog():
			tryRecord(value)
		}
	})
	if c.legacy != nil && found == nil {
		cursor := c.legacy.Cursor()
		for key, value := cursor.First(); key != nil && found == nil; key, value = cursor.Next() {
			if lock, err := decodeProjectLock(value); err == nil {
				try(lock.Project.RepoFullName)
			}
		}
	}
	if found == nil {
		return "", false
	}
	return *found, true
}

// recordAt returns the lock that is, or after a repair will be, stored on a
// resource; nil for none and for one that can't be read.
func (c *inspection) recordAt(resourceKey string) *lockRecord {
	if record, ok := c.moved[resourceKey]; ok {
		return record
	}
	if record, ok := c.seen[resourceKey]; ok {
		return record
	}
	if _, err := enhanced.ParseResourceKey(c.name, resourceKey); err != nil {
		return nil
	}
	record, err := decodeLockRecord(c.name, c.get(lockKey(resourceKey)))
	if err != nil || c.home(resourceKey, record) != resourceKey {
		return nil
	}
	return record
}

// checkCounter compares the store's token with those in use.
func (c *inspection) checkCounter() {
	if c.highest <= c.store.token {
		return
	}
	highest := c.highest
	p := c.report(enhanced.RuleTokenCounter, tokenKey(), "the store's token is %d, but %d is in use: tokens could be given twice", c.store.token, highest)
	p.Record, p.level = entryName(tokenKey()), highest
	p.repairs(fmt.Sprintf("raise the store's token to %d", highest), func(s *repositoryStep, _ change) error {
		s.batch.token = max(s.batch.token, highest)
		s.batch.dirty = true
		return nil
	})
}

// now is the latest time that anything stored can be of: no clock here or there
// has gone further.
func (c *inspection) now() int64 { return max(c.store.clock, c.store.wall, c.log.time) }

// use notes a token that is in use. One of the future is a damage of its own.
func (c *inspection) use(token int64) {
	if !c.isOfFuture(token) {
		c.highest = max(c.highest, token)
	}
}

// isOfFuture reports whether a token can't have been given yet.
func (c *inspection) isOfFuture(token int64) bool {
	return token > c.store.token && token > c.store.horizon
}

// stock returns stock's record under a key, nil for none.
func (c *inspection) stock(key string) []byte { return getFrom(c.legacy, []byte(key)) }

func getFrom(bucket *bbolt.Bucket, key []byte) []byte {
	if bucket == nil {
		return nil
	}
	return bucket.Get(key)
}
