package backends

import (
	"errors"
	"fmt"
	"strings"

	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// stockProblem is a record of stock Atlantis that no lock has as its copy and
// that can't be taken over.
type stockProblem struct {
	problem
	key string
}

// stockProblems checks what stock Atlantis has in its own bucket. Locks that it
// has taken and this store has not seen yet are no problem, credentials in them
// included: the next step on their resources takes them over. The claimed keys
// are those of copies, which are checked with their locks.
func stockProblems(tx *bbolt.Tx, claimed map[string]struct{}) (problems []stockProblem) {
	legacy := tx.Bucket(legacyLocks())
	if legacy == nil {
		return nil
	}
	cursor := legacy.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		if _, ok := claimed[string(key)]; ok {
			continue
		}
		if p, ok := stockProblemAt(tx, string(key), value); ok {
			problems = append(problems, p)
		}
	}
	return problems
}

// stockProblemAt judges one record that no lock has as its copy.
func stockProblemAt(tx *bbolt.Tx, key string, value []byte) (stockProblem, bool) {
	rule, detail := judgeStock(key, value)
	if rule == "" {
		return rivalProblem(tx, key, value)
	}
	p := stockProblem{key: key, problem: problem{Violation: enhanced.Violation{
		Rule: rule, Record: legacyName(key), Repository: stockRepository(tx, key),
		Detail: detail + "; the resource with its key counts as held",
	}}}
	if value != nil {
		where := []byte(legacyName(key))
		p.quarantines(where, "; the resource is free then", func(s *repositoryStep, _ change) error {
			return errors.Join(s.quarantine(where, s.legacy.Get([]byte(key))), s.deleteLegacy(key))
		})
	}
	return p, true
}

// rivalProblem judges a record that can be read: two owners of one resource are
// a person's business.
func rivalProblem(tx *bbolt.Tx, key string, value []byte) (stockProblem, bool) {
	lock, err := decodeProjectLock(value)
	if err != nil {
		return stockProblem{}, false
	}
	resource, owner := enhanced.ProjectResource(lock.Project, lock.Workspace), enhanced.ProjectLockOwner(*lock)
	any := &repository{tx: tx, legacy: tx.Bucket(legacyLocks()), now: readStoreState(tx).clock}
	f := any.sibling(resource.Namespace).inspect(resource)
	switch f.status {
	case held, heldElsewhere:
	case heldByStock:
		if f.legacyKey == key {
			return stockProblem{}, false
		}
	default:
		return stockProblem{}, false
	}
	if isSamePull(f.owner(), owner) {
		return stockProblem{}, false
	}
	return stockProblem{key: key, problem: problem{Violation: enhanced.Violation{
		Rule: enhanced.RuleStockRival, Record: legacyName(key), Repository: resource.Namespace,
		Detail: fmt.Sprintf("%s has a lock on %s, too, which %s holds: it counts when that one ends", owner.Describe(), resource, f.owner().Describe()),
	}}}, true
}

// judgeStock returns the rule that a record of stock's bucket breaks, "" for
// none, and what is wrong with it.
func judgeStock(key string, value []byte) (rule, detail string) {
	if value == nil {
		return enhanced.RuleStockUnreadable, "it is a bucket, not a record"
	}
	lock, err := decodeProjectLock(value)
	if err != nil {
		// The decoder's own words could repeat part of the record.
		return enhanced.RuleStockUnreadable, "the record can't be read"
	}
	resource := enhanced.ProjectResource(lock.Project, lock.Workspace)
	if key != resource.LegacyKey() && key != oldLegacyKey(resource) {
		return enhanced.RuleStockKey, "the record is of another project than its key"
	}
	return "", ""
}

// stockRepository returns the repository that a key of stock's most likely
// belongs to. Its log gets the record of a repair.
func stockRepository(tx *bbolt.Tx, key string) string {
	best := ""
	if matches, err := locking.IsCurrentLocking(key); err == nil {
		best = matches[1]
	} else if parts := strings.SplitN(key, "/", 3); len(parts) == 3 {
		best = parts[0] + "/" + parts[1]
	}
	for name := range splits(key) {
		if repositoryBucket(tx, enhanced.RepositoryTag(name)) != nil {
			best = name
		}
	}
	resource := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeProject, Namespace: best}
	if resource.Validate() != nil {
		return ""
	}
	return best
}
