package backends

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// repairRounds is how often a repair looks again. One round is enough unless
// one damage hides another.
const repairRounds = 3

// RepairBolt repairs a store at rest: it does what the Repair texts of
// [VerifyBolt] say and logs each with the actor, an owner in text form, and the
// reason. It returns what it repaired. Unlike [NewBoltBackend] it takes over
// nothing from stock Atlantis. It writes nothing where there is nothing to repair.
func RepairBolt(ctx context.Context, db *bbolt.DB, actor, reason string) ([]enhanced.Violation, error) {
	violations, err := VerifyBolt(db)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(violations, func(v enhanced.Violation) bool { return v.Repair != "" }) {
		return nil, enhanced.ValidateRepair(actor, reason)
	}
	if err := prepare(db); err != nil {
		return nil, enhanced.NewBackendError(fmt.Sprintf("preparing %q", db.Path()), err)
	}
	b := &BoltBackend{db: db, logger: enhanced.LoggerOrNoop(nil)}
	b.config.Store(enhanced.DefaultConfig())
	b.start()
	repaired, err := b.Repair(ctx, actor, reason)
	return repaired, errors.Join(err, b.Close())
}

// Repair repairs the store. Each repository is one step. A file whose own
// structure is damaged is left alone. See [enhanced.Verifier].
func (b *BoltBackend) Repair(ctx context.Context, actor, reason string) ([]enhanced.Violation, error) {
	const operation = "repair"
	if err := enhanced.ValidateRepair(actor, reason); err != nil {
		return nil, err
	}
	work, err := b.repairWork(ctx, operation)
	if err != nil {
		return nil, stepError(operation, err)
	}
	by := change{actor: actor, cause: enhanced.CauseRepair, reason: reason}
	var repaired []enhanced.Violation
	for _, name := range slices.Sorted(maps.Keys(work)) {
		done, err := decide(ctx, b.committer, operation+" "+name, func(batch *batch) ([]enhanced.Violation, error) {
			return b.repositoryStep(batch, name).repair(work[name], by)
		})
		repaired = append(repaired, done...)
		if err != nil {
			return repaired, err
		}
	}
	if len(work) > 0 {
		b.clean.forget()
	}
	return repaired, nil
}

// repairWork returns the repositories that need a repair, each with the keys of
// stock's records that are to be repaired there.
func (b *BoltBackend) repairWork(ctx context.Context, operation string) (map[string][]string, error) {
	work := make(map[string][]string)
	if err := b.view(ctx, operation, func(*bbolt.Tx) error { return nil }); err != nil {
		return nil, err
	}
	damages, err := verifyPages(b.db, b.opened)
	if err == nil && len(damages) > 0 {
		err = fmt.Errorf("%q is damaged, nothing was changed: %s", b.db.Path(), damages[0].Detail)
	}
	if err != nil {
		return nil, err
	}
	return work, b.db.View(func(tx *bbolt.Tx) error {
		problems, stock, err := storeProblems(tx)
		for _, p := range problems {
			if p.fix != nil {
				work[p.Repository] = nil
			}
		}
		for _, p := range stock {
			if p.fix != nil {
				work[p.Repository] = append(work[p.Repository], p.key)
			}
		}
		return err
	})
}

// repair repairs the repository and the records of stock's with the keys, and
// logs what it did. It returns what it repaired.
func (s *repositoryStep) repair(stockKeys []string, by change) ([]enhanced.Violation, error) {
	// It goes by the file, and what was repaired may change what is remembered.
	delete(s.backend.memories, s.tag)
	defer delete(s.backend.memories, s.tag)
	s.reopen()
	var repaired []enhanced.Violation
	state := readStoreState(s.tx)
	for range repairRounds {
		problems := s.repairable(stockKeys, state)
		if len(problems) == 0 {
			return repaired, nil
		}
		if err := s.repairAll(problems, by); err != nil {
			return nil, err
		}
		for _, p := range problems {
			repaired = append(repaired, p.Violation)
		}
		// What the step has changed is stored at its end.
		state.clock, state.token = s.batch.now, s.batch.token
	}
	if problems := s.repairable(stockKeys, state); len(problems) > 0 {
		return nil, fmt.Errorf("%q breaks rule %s still, nothing was changed", problems[0].Record, problems[0].Rule)
	}
	return repaired, nil
}

// repairable returns the problems that have a repair, those that remove entries
// first.
func (s *repositoryStep) repairable(stockKeys []string, state storeState) []problem {
	var problems []problem
	if s.bucket != nil {
		c := newInspection(s.repository, state)
		c.run()
		problems = c.problems
	}
	for _, key := range stockKeys {
		if value := s.legacy.Get([]byte(key)); value != nil {
			if p, ok := stockProblemAt(s.tx, key, value); ok {
				problems = append(problems, p.problem)
			}
		}
	}
	problems = slices.DeleteFunc(problems, func(p problem) bool { return p.fix == nil })
	slices.SortStableFunc(problems, func(x, y problem) int { return cmp.Compare(btoi(x.adds), btoi(y.adds)) })
	return problems
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// repairAll does the repairs, then logs them: what the log does on the side,
// such as forgetting, needs a store that is sound.
func (s *repositoryStep) repairAll(problems []problem, by change) error {
	for _, p := range problems {
		if err := p.fix(s, by); err != nil {
			return fmt.Errorf("%s of %q: %w", p.Rule, p.Record, err)
		}
	}
	if s.bucket == nil {
		if err := s.put(nameKey(), []byte(s.name)); err != nil {
			return err
		}
	}
	for _, p := range problems {
		if err := s.logRepair(p, by); err != nil {
			return err
		}
	}
	return nil
}

// logRepair logs one repair, with the lock that it was about.
func (s *repositoryStep) logRepair(p problem, by change) error {
	by.reason = fmt.Sprintf("%s (%s of %q: %s)", by.reason, p.Rule, p.Record, p.Repair)
	resource, err := enhanced.ParseResourceKey(s.name, p.resourceKey)
	if err != nil {
		return s.log(enhanced.EventRepaired, enhanced.ResourceIdentifier{}, nil, nil, by)
	}
	before, after := p.lost, (*lockRecord)(nil)
	if record, err := decodeLockRecord(s.name, s.get(lockKey(p.resourceKey))); err == nil {
		before, after = record, record
	}
	return s.log(enhanced.EventRepaired, resource, before, after, by)
}
