package backends

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

var _ enhanced.Verifier = (*RedisBackend)(nil)

// redisSnapshot is a repository as it was read.
type redisSnapshot struct {
	tag, name string
	now       int64
	meta      map[string]string // with each of the counters
	locks     map[string]string // headers
	details   map[string]string
	deadlines map[string]int64
	memory    map[string]string
	endings   map[string]string // entries of when locks ended, by their numbers
	waiters   map[string]string // by their requests
	queue     map[string]bool
	// reservations are those by the keys of their resources.
	reservations map[string]string
	// still is set when nothing has changed while it was read, counters are those
	// at the last piece.
	still    bool
	counters string
	// mistyped are the keys, by their last part, that have another type.
	mistyped []string

	log []*enhanced.LogRecord
	// stray are the sequences of log records behind the latest one.
	stray []uint64
}

// Verify checks the store. A repository is read in pieces, so that its server
// goes on with other work; one that changed meanwhile is read again, and where
// it changes all the time only what several looks agree on counts. See
// [enhanced.Verifier].
func (b *RedisBackend) Verify(ctx context.Context) ([]enhanced.Violation, error) {
	problems, err := b.redisProblems(ctx, "verify")
	if err != nil {
		return nil, err
	}
	violations := make([]enhanced.Violation, 0, len(problems))
	for _, p := range problems {
		violations = append(violations, p.Violation)
	}
	slices.SortStableFunc(violations, func(x, y enhanced.Violation) int { return cmp.Compare(x.Repository, y.Repository) })
	return violations, nil
}

// redisProblems returns all that is wrong in the store.
func (b *RedisBackend) redisProblems(ctx context.Context, operation string) ([]redisProblem, error) {
	tags, problems, err := b.allKeys(ctx, operation)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		found, err := b.inspect(ctx, operation, tag)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	stock, err := b.stockViolations(ctx, operation)
	return append(problems, stock...), err
}

// allKeys returns the tags of all repositories, and the keys that have the
// prefix and are none of theirs.
func (b *RedisBackend) allKeys(ctx context.Context, operation string) ([]string, []redisProblem, error) {
	if err := b.ready(ctx, operation); err != nil {
		return nil, nil, err
	}
	keys, err := call(ctx, b, operation, false, func(ctx context.Context) ([]string, error) {
		return b.scanAll(ctx, globEscaped(b.keys.prefix)+"*")
	})
	if err != nil {
		return nil, nil, err
	}
	var tags []string
	var problems []redisProblem
	for _, key := range keys {
		tag, suffix, ok := b.keys.split(key)
		switch {
		case key == b.keys.fleet():
			if _, err := b.ReadFleet(ctx); errors.Is(err, enhanced.ErrCorruptRecord) {
				problems = append(problems, redisProblem{Violation: fleetViolation(key)})
			}
		case !ok || !slices.Contains(append(redisSuffixes(), asideSuffix), suffix):
			problems = append(problems, redisProblem{Violation: enhanced.Violation{
				Rule: enhanced.RuleUnknownEntry, Record: key, Detail: "the store's format has no such key",
			}})
		case !slices.Contains(tags, tag):
			tags = append(tags, tag)
		}
	}
	return tags, problems, nil
}

// looks is how often a repository is looked at that changes all the time.
const looks = 3

// inspect returns what is wrong in a repository.
func (b *RedisBackend) inspect(ctx context.Context, operation, tag string) ([]redisProblem, error) {
	var seen []redisProblem
	for look := range looks {
		s, err := b.snapshot(ctx, operation, tag)
		if err != nil {
			return nil, err
		}
		c := &redisInspection{redisSnapshot: s, keys: b.keys, mirrored: !b.isCluster()}
		c.run()
		if s.still || len(c.problems) == 0 {
			return c.problems, nil
		}
		if look > 0 {
			// What was only half written, or half read, looks otherwise now.
			c.problems = slices.DeleteFunc(c.problems, func(p redisProblem) bool {
				return !slices.ContainsFunc(seen, func(q redisProblem) bool { return p.Violation == q.Violation })
			})
		}
		seen = c.problems
	}
	return seen, nil
}

// Numbers of a repository's keys, in the order of the scripts' KEYS.
const (
	snapshotState = 1 + iota
	snapshotDeadlines
	_ // the log, see snapshotLog
	snapshotQueue
)

// readState reads the state of a repository.
func (b *RedisBackend) readState(ctx context.Context, operation, tag string) (*redisSnapshot, error) {
	s := &redisSnapshot{
		tag: tag, still: true, meta: make(map[string]string), locks: make(map[string]string),
		details: make(map[string]string), memory: make(map[string]string), waiters: make(map[string]string),
		reservations: make(map[string]string), endings: make(map[string]string),
	}
	fields, err := b.scanKey(ctx, operation, s, snapshotState)
	for field, value := range pairs(fields) {
		switch prefix := field[:min(len(field), 1)]; {
		case isMeta(field):
			s.meta[field] = value
		case prefix == "l":
			s.locks[field[1:]] = value
		case prefix == "d":
			s.details[field[1:]] = value
		case prefix == "r" && !isToken(value):
			s.waiters[field[1:]] = value
		case prefix == "e":
			s.endings[field[1:]] = value
		case prefix == "k":
			s.reservations[field[1:]] = value
		default:
			s.memory[field] = value
		}
	}
	s.name = s.meta["name"]
	maps.Copy(s.meta, parseCounters(s.meta[countersField]))
	return s, err
}

// isToken reports whether a request's field has a token, and so no waiter.
func isToken(value string) bool { return strings.Trim(value, "0123456789") == "" }

// isMeta reports whether a field of a state is none of a lock, a token or a
// request. Keys of resources have a slash, tokens are digits, and no other field
// begins as requests do.
func isMeta(field string) bool {
	switch field {
	case "name", countersField, "trimmed_time", "confirmed", "alive", "aging":
		return true
	}
	return strings.HasPrefix(field, "closing:")
}

// snapshot reads a repository; still says whether it stayed as it is meanwhile.
func (b *RedisBackend) snapshot(ctx context.Context, operation, tag string) (*redisSnapshot, error) {
	s, err := b.readState(ctx, operation, tag)
	if err != nil {
		return nil, err
	}
	deadlines, err := b.scanKey(ctx, operation, s, snapshotDeadlines)
	if err != nil {
		return nil, err
	}
	s.deadlines = scores(deadlines)
	members, err := b.scanKey(ctx, operation, s, snapshotQueue)
	if err != nil {
		return nil, err
	}
	s.queue = make(map[string]bool)
	for member := range pairs(members) {
		s.queue[member] = true
	}
	return s, b.snapshotLog(ctx, s)
}

// scanKey reads one key of a snapshot in pieces.
func (b *RedisBackend) scanKey(ctx context.Context, operation string, s *redisSnapshot, number int) (all []string, err error) {
	for cursor, first := "0", true; cursor != "0" || first; first = false {
		reply, err := b.run(ctx, operation, b.scripts.snapshot, b.keys.repository(s.tag), number, cursor, scanPage)
		if err != nil {
			return nil, err
		}
		if len(reply) < 3 {
			return nil, enhanced.NewBackendError(operation, fmt.Errorf("script snapshot answered %d parts", len(reply)))
		}
		if s.now, err = strconv.ParseInt(reply[0], 10, 64); err != nil {
			return nil, enhanced.NewBackendError(operation, err)
		}
		s.still = s.still && (s.counters == reply[1] || s.counters == "" && first && number == snapshotState)
		s.counters = reply[1]
		if cursor = reply[2]; cursor == "?" {
			s.mistyped = append(s.mistyped, redisSuffixes()[number-1])
			return nil, nil
		}
		all = append(all, reply[3:]...)
	}
	return all, nil
}

// snapshotLog reads the log of a snapshot, up to the record that was the latest.
func (b *RedisBackend) snapshotLog(ctx context.Context, s *redisSnapshot) error {
	last, _ := strconv.ParseUint(s.meta["sequence"], 10, 64) //nolint:errcheck // checkCounters reports it
	for from := uint64(1); ; {
		piece, err := b.readLog(ctx, s.tag, s.name, from, logPage)
		if hasErrorPrefix(err, "WRONGTYPE") {
			s.mistyped = append(s.mistyped, "log")
			return nil
		}
		if err != nil {
			return err
		}
		for _, record := range piece.Records {
			from = record.Sequence + 1
			switch {
			case record.Sequence <= last:
				s.log = append(s.log, record)
			case record.Sequence > piece.last:
				s.stray = append(s.stray, record.Sequence)
			}
		}
		if !piece.More || from > last+1 && len(s.stray) == 0 {
			return nil
		}
	}
}

// stockViolations returns what can't be read of stock's locks.
func (b *RedisBackend) stockViolations(ctx context.Context, operation string) ([]redisProblem, error) {
	if b.isCluster() {
		return nil, nil
	}
	values, err := call(ctx, b, operation, false, func(ctx context.Context) ([]stockValue, error) { return b.stockValues(ctx, "") })
	if err != nil {
		return nil, err
	}
	var problems []redisProblem
	for _, v := range values {
		var rule, detail string
		if v.problem != "" {
			rule, detail = enhanced.RuleStockUnreadable, "the record can't be read"
		} else {
			rule, detail = judgeStock(strings.TrimPrefix(v.key, stockPrefix), []byte(v.value))
		}
		if rule != "" {
			problems = append(problems, redisProblem{Violation: enhanced.Violation{Rule: rule, Record: v.key, Detail: detail}})
		}
	}
	return problems, nil
}

func pairs(flat []string) map[string]string {
	m := make(map[string]string, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		m[flat[i]] = flat[i+1]
	}
	return m
}

// scores reads members and scores. What holds a key open has an endless one.
func scores(flat []string) map[string]int64 {
	m := make(map[string]int64, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		score, _ := strconv.ParseFloat(flat[i+1], 64) //nolint:errcheck // the server writes numbers
		m[flat[i]] = int64(score)
	}
	return m
}
