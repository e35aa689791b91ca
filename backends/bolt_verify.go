package backends

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

var _ enhanced.Verifier = (*BoltBackend)(nil)

// problem is a violation, and how a repair ends it.
type problem struct {
	enhanced.Violation
	// resourceKey is the resource that it is about, "" for the repository.
	resourceKey string
	// lost is the lock that the log has and the store has not.
	lost *lockRecord
	// level is how far the store is behind the repository; of several
	// repositories only the one that is furthest ahead counts.
	level int64
	// fix ends the violation. It is nil where a person has to decide.
	fix repairFunc
	// adds says that the fix writes entries. Those that remove go first, so
	// that none removes what another has just written.
	adds bool
}

// repairFunc repairs something in a step over its repository.
type repairFunc func(s *repositoryStep, by change) error

// storeState is what the rules of a repository need to know of the store.
type storeState struct {
	clock, token int64
	// wall is this machine's clock.
	wall int64
	// horizon is the latest time, and the largest token, that makes sense.
	horizon int64
	// format is the file's, "" where it does not say.
	format string
}

// maxAhead is how far the store's clock may be ahead of this machine's.
const maxAhead = 24 * time.Hour

func readStoreState(tx *bbolt.Tx) storeState {
	now := time.Now()
	state := storeState{wall: now.UnixMicro(), horizon: now.Add(maxAhead).UnixMicro()}
	if root := tx.Bucket(rootBucket()); root != nil {
		state.clock, state.token = number(root.Get(clockKey())), number(root.Get(tokenKey()))
		state.format = string(root.Get(formatKey()))
	}
	return state
}

// VerifyBolt checks a store that is at rest, and returns what breaks its rules.
// The file may be open read-only, and may be one that only stock Atlantis has
// written. It changes nothing. Its error says that the file can't be checked.
func VerifyBolt(db *bbolt.DB) ([]enhanced.Violation, error) {
	return verifyBolt(db, nil)
}

func verifyBolt(db *bbolt.DB, opened os.FileInfo) ([]enhanced.Violation, error) {
	unusable, usable, err := verifyFile(db, opened)
	if err != nil || len(unusable) > 0 {
		return append(unusable, usable...), err
	}
	var violations []enhanced.Violation
	err = db.View(func(tx *bbolt.Tx) (err error) {
		violations, err = verifyRules(tx)
		return err
	})
	return append(usable, violations...), err
}

// Verify checks the store. See [enhanced.Verifier]. Writers wait while the
// file's pages are checked, less than half a second for 100,000 locks.
func (b *BoltBackend) Verify(ctx context.Context) ([]enhanced.Violation, error) {
	const operation = "verify"
	var violations []enhanced.Violation
	err := b.view(ctx, operation, func(*bbolt.Tx) error { return nil })
	if err == nil {
		violations, err = verifyBolt(b.db, b.opened)
	}
	return violations, stepError(operation, err)
}

// verifyRules checks all but the file's own structure.
func verifyRules(tx *bbolt.Tx) ([]enhanced.Violation, error) {
	problems, stock, err := storeProblems(tx)
	if err != nil {
		return nil, err
	}
	violations := make([]enhanced.Violation, 0, len(problems)+len(stock))
	for _, p := range problems {
		violations = append(violations, p.Violation)
	}
	for _, p := range stock {
		violations = append(violations, p.Violation)
	}
	slices.SortStableFunc(violations, func(x, y enhanced.Violation) int { return cmp.Compare(x.Repository, y.Repository) })
	return violations, nil
}

// storeProblems returns all that is wrong in a store, and in what stock
// Atlantis has in it.
func storeProblems(tx *bbolt.Tx) (problems []problem, stock []stockProblem, err error) {
	claimed := make(map[string]struct{})
	if root := tx.Bucket(rootBucket()); root != nil {
		state := readStoreState(tx)
		if state.format != "" && !isReadable(state.format) {
			return nil, nil, formatError(state.format)
		}
		problems = rootProblems(root, state)
		eachRepository(tx, state.clock, func(r *repository) {
			c := newInspection(r, state)
			c.run()
			problems = append(problems, c.problems...)
			maps.Copy(claimed, c.claimed)
		})
	}
	return furthest(problems), stockProblems(tx, claimed), nil
}

// furthest leaves one problem of each rule that is about the store as a whole.
func furthest(problems []problem) []problem {
	most := make(map[string]int64)
	for _, p := range problems {
		most[p.Rule] = max(most[p.Rule], p.level)
	}
	return slices.DeleteFunc(problems, func(p problem) bool { return p.level < most[p.Rule] })
}

func formatError(version string) error {
	return fmt.Errorf("the file has format %q, this version reads format %q only; use the version that wrote it", version, formatVersion)
}

// rootProblems checks the store's own entries.
func rootProblems(root *bbolt.Bucket, state storeState) (problems []problem) {
	if state.clock > state.horizon {
		problems = append(problems, problem{Violation: enhanced.Violation{
			Rule: enhanced.RuleClockAhead, Record: entryName(clockKey()),
			Detail: fmt.Sprintf("the store's clock is at %s: it stands still, and no lease taken now ends, until this machine's clock gets there",
				time.UnixMicro(state.clock).UTC().Format(time.DateTime)),
		}})
	}
	if _, err := decodeFleet(string(fleetKey()), string(root.Get(fleetKey()))); err != nil {
		problems = append(problems, problem{Violation: fleetViolation(entryName(fleetKey()))})
	}
	cursor := root.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		switch string(key) {
		case string(formatKey()), string(clockKey()), string(tokenKey()), string(probeKey()), string(fleetKey()):
			continue
		}
		if value != nil || root.Bucket(key) == nil || state.format == formatVersion {
			problems = append(problems, problem{Violation: enhanced.Violation{
				Rule: enhanced.RuleUnknownEntry, Record: entryName(key),
				Detail: "the store's format has no such entry",
			}})
		}
	}
	return problems
}

// entryName names an entry for people, with the buckets around it.
func entryName(path ...[]byte) string {
	name := string(rootBucket())
	for _, part := range path {
		name += "/" + string(part)
	}
	return name
}
