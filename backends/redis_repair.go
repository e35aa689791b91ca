package backends

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// maxRepairs is how often a repository is looked at again that changes while it
// is repaired, or in which one damage hides another.
const maxRepairs = 20

// Repair repairs the store, each repository in one step. What can't be read is
// kept in the hash PREFIX{TAG}:aside. See [enhanced.Verifier].
func (b *RedisBackend) Repair(ctx context.Context, actor, reason string) ([]enhanced.Violation, error) {
	const operation = "repair"
	if err := enhanced.ValidateRepair(actor, reason); err != nil {
		return nil, err
	}
	tags, _, err := b.allKeys(ctx, operation)
	if err != nil {
		return nil, err
	}
	var repaired []enhanced.Violation
	for _, tag := range tags {
		done, err := b.repairOne(ctx, operation, tag, actor, reason)
		repaired = append(repaired, done...)
		if err != nil {
			return repaired, err
		}
	}
	return repaired, nil
}

// repairOne repairs one repository, until nothing is left that it can repair.
func (b *RedisBackend) repairOne(ctx context.Context, operation, tag, actor, reason string) (repaired []enhanced.Violation, err error) {
	for range maxRepairs {
		problems, err := b.inspect(ctx, operation, tag)
		if err != nil {
			return repaired, err
		}
		var changes, logged []any
		var now []enhanced.Violation
		count := 0
		for _, p := range problems {
			if p.Repair == "" {
				continue
			}
			for _, c := range p.changes {
				changes = append(changes, c.command, c.key, c.field, c.value, p.seen.before(c))
				count++
			}
			logged = append(logged, p.logged(reason)...)
			now = append(now, p.Violation)
		}
		if len(now) == 0 {
			return repaired, nil
		}
		args := append([]any{cmp.Or(problems[0].seen.meta["sequence"], "0"), actor, enhanced.CauseRepair, count}, append(changes, logged...)...)
		a, err := b.step(ctx, operation+" "+now[0].Repository, b.scripts.repair, tag, now[0].Repository,
			[]string{b.keys.key(tag, asideSuffix)}, args...)
		switch {
		case err != nil:
			return repaired, err
		case a.status == "repaired":
			repaired = append(repaired, now...)
		}
	}
	return repaired, enhanced.NewBackendError(operation, fmt.Errorf("%q changes all the time, or can't be repaired; try again", b.keys.state(tag)))
}

// before is what was where a change is made, empty for nothing.
func (s *redisSnapshot) before(c redisChange) string {
	switch c.key {
	case "state":
		if c.command == "COUNT" {
			return s.meta[c.field]
		}
		return s.stateField(c.field)
	case "deadlines":
		if at, found := s.deadlines[c.field]; found {
			return strconv.FormatInt(at, 10)
		}
	case "queue":
		if s.queue[c.field] {
			return "0"
		}
	}
	return ""
}

// stateField is a field of the state, empty for none, see readState.
func (s *redisSnapshot) stateField(field string) string {
	switch prefix, name := field[:min(len(field), 1)], field[min(len(field), 1):]; {
	case isMeta(field):
		return s.meta[field]
	case prefix == "l":
		return s.locks[name]
	case prefix == "d":
		return s.details[name]
	case prefix == "e":
		return s.endings[name]
	case prefix == "k":
		return s.reservations[name]
	case prefix == "r":
		return cmp.Or(s.waiters[name], s.memory[field])
	}
	return s.memory[field]
}

// logged are the script's arguments for the log record of a repair.
func (p *redisProblem) logged(reason string) []any {
	owner, token, expires, stays := "", "0", "0", ""
	if p.lock != nil {
		owner, token, expires = p.lock.Owner, strconv.FormatInt(p.lock.Token, 10), strconv.FormatInt(p.lock.Expires, 10)
		if p.stays {
			stays = "1"
		}
	}
	resource := p.resource
	if _, err := enhanced.ParseResourceKey(p.Repository, resource); err != nil {
		resource = noResource()
	}
	return []any{resource, owner, token, expires, stays, fmt.Sprintf("%s (%s of %q: %s)", reason, p.Rule, p.Record, p.Repair)}
}
