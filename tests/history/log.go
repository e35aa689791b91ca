package history

import (
	"context"
	"fmt"
	"maps"
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// readPage is how many records of a log are read at a time.
const readPage = 1000

// ReadLog returns the whole log of each repository of the history.
func (h *History) ReadLog(ctx context.Context, backend enhanced.Backend) (map[string][]*enhanced.LogRecord, error) {
	logs := make(map[string][]*enhanced.LogRecord)
	for _, op := range h.Operations {
		if _, done := logs[op.Repository]; done {
			continue
		}
		records := []*enhanced.LogRecord{}
		for {
			page, err := backend.ReadLog(ctx, op.Repository, uint64(len(records)), readPage)
			if err != nil {
				return nil, err
			}
			if page.Trimmed != 0 {
				return nil, fmt.Errorf("%s: the log lacks its first %d records", op.Repository, page.Trimmed)
			}
			if records = append(records, page.Records...); !page.More {
				break
			}
		}
		logs[op.Repository] = records
	}
	return logs, nil
}

// JudgeLog holds the store's logs against the history: played from its start
// each log is the life of locks that have one holder at a time and tokens that
// grow, each change that was answered is in it once, and nothing that nobody
// has asked for; changes that followed each other are in that order.
func (h *History) JudgeLog(logs map[string][]*enhanced.LogRecord) (problems []string) {
	byRepository := make(map[string][]Operation)
	for _, op := range h.Operations {
		byRepository[op.Repository] = append(byRepository[op.Repository], op)
	}
	for repository, operations := range byRepository {
		records := logs[repository]
		for _, problem := range slices.Concat(replay(records), matchLog(records, operations)) {
			problems = append(problems, repository+": log: "+problem)
		}
	}
	return problems
}

// replay plays a log and returns where it contradicts itself.
func replay(records []*enhanced.LogRecord) (problems []string) {
	held := make(map[string]*enhanced.LockSummary)
	var last int64
	for i, r := range records {
		report := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("record %d, %s of token %d: ", r.Sequence, r.Type, r.Token)+fmt.Sprintf(format, args...))
		}
		if r.Sequence != uint64(i)+1 {
			report("is number %d", i+1)
		}
		key := r.Resource.Key()
		before := held[key]
		if enhanced.IsQueueEvent(r.Type) {
			asked := r.RequestID != "" || r.Type == enhanced.EventReservationEnded
			if r.Waiter == "" || !asked || r.Before != nil || r.After != nil {
				report("is about a waiter, and says %v", r)
			}
			continue
		}
		if !sameSummary(before, r.Before) {
			report("says that before it was %v, but it was %v", show(r.Before), show(before))
		}
		switch r.Type {
		case enhanced.EventAcquired, enhanced.EventGranted, enhanced.EventTransferred:
			if (before != nil) != (r.Type == enhanced.EventTransferred) || r.After == nil {
				report("goes from %v to %v", show(before), show(r.After))
			}
			if r.Token <= last {
				report("token is not above %d", last)
			}
			last = max(last, r.Token)
		case enhanced.EventRefreshed, enhanced.EventClaimed:
			if before == nil || r.After == nil || before.Token != r.After.Token || before.Owner != r.After.Owner {
				report("goes from %v to %v", show(before), show(r.After))
			}
		case enhanced.EventReleased, enhanced.EventReserved, enhanced.EventTimeout, enhanced.EventClaimExpired:
			ends := r.Type == enhanced.EventTimeout || r.Type == enhanced.EventClaimExpired
			if before == nil || r.After != nil || ends && before.ExpiresAt == nil {
				report("goes from %v to %v", show(before), show(r.After))
			}
		default:
			report("is not expected")
		}
		held[key] = r.After
	}
	return problems
}

func sameSummary(a, b *enhanced.LockSummary) bool {
	if a == nil || b == nil {
		return a == b
	}
	if (a.ExpiresAt == nil) != (b.ExpiresAt == nil) || a.ExpiresAt != nil && !a.ExpiresAt.Equal(*b.ExpiresAt) {
		return false
	}
	return a.Owner == b.Owner && a.Token == b.Token
}

func show(s *enhanced.LockSummary) string {
	if s == nil {
		return "free"
	}
	return fmt.Sprintf("token %d of %s", s.Token, s.Owner)
}

// change is what a record and the operations that ask for it have in common.
type change struct {
	event, resource string
	// request of an acquire; token of the grant that ended, went on, or was
	// given away, otherwise.
	request string
	token   int64
}

func changeOf(r *enhanced.LogRecord) change {
	c := change{event: r.Type, resource: r.Resource.Key(), token: r.Token}
	switch r.Type {
	case enhanced.EventAcquired, enhanced.EventGranted:
		c.event, c.request, c.token = enhanced.EventAcquired, r.RequestID, 0
	case enhanced.EventTransferred:
		c.token = 0
		if r.Before != nil {
			c.token = r.Before.Token
		}
	}
	return c
}

// changeBy returns the change that op asks for. One that releases whatever is
// there and was not answered says no token: it is 0.
func changeBy(op Operation) change {
	c := change{resource: op.Resource, token: op.Token}
	switch op.Kind {
	case Acquire:
		c.event, c.request = enhanced.EventAcquired, op.Request
	case Refresh:
		c.event = enhanced.EventRefreshed
	case Transfer:
		c.event = enhanced.EventTransferred
	case Release, ReleaseOwned, ForceRelease, ReleaseByPull:
		c.event = enhanced.EventReleased
		if op.Lock != nil {
			c.token = op.Lock.Token
		}
	}
	return c
}

// asked are the operations that may have made one change.
type asked struct {
	done    []Operation
	unknown int
}

// wishesOf returns what operations may have changed. Owners are by token, and
// tokens that were granted by request.
func wishesOf(operations []Operation, owners map[int64]string, granted map[string]int64) map[change]*asked {
	wishes := make(map[change]*asked)
	of := func(c change) *asked {
		if wishes[c] == nil {
			wishes[c] = new(asked)
		}
		return wishes[c]
	}
	for _, op := range operations {
		if op.Answer != Done && op.Answer != Unknown || op.Kind == Lookup ||
			op.Kind == Transfer && owners[op.Token] == op.Owner || // it has it, nothing changes
			op.Lock != nil && op.Lock.Closed { // it is no lock any more
			continue
		}
		c := changeBy(op)
		if op.Answer == Done {
			of(c).done = append(of(c).done, op)
			continue
		}
		of(c).unknown++
		if token := granted[op.Request]; op.InTurn && token != 0 {
			of(change{event: enhanced.EventReleased, resource: op.Resource, token: token}).unknown++
		}
	}
	return wishes
}

// matchLog compares what was asked and answered with what is recorded.
func matchLog(records []*enhanced.LogRecord, operations []Operation) (problems []string) {
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	recorded := make(map[change][]*enhanced.LogRecord)
	owners := make(map[int64]string)
	granted := make(map[string]int64) // tokens by request
	for _, r := range records {
		if enhanced.IsQueueEvent(r.Type) {
			continue // about no lock
		}
		recorded[changeOf(r)] = append(recorded[changeOf(r)], r)
		if r.After != nil {
			owners[r.After.Token] = r.After.Owner
		}
		if changeOf(r).request != "" {
			granted[r.RequestID] = r.Token
		}
	}
	wishes := wishesOf(operations, owners, granted)
	for c, wish := range wishes {
		least := min(len(wish.done), 1) // a repeated acquire or release is one change
		if c.event == enhanced.EventRefreshed || c.event == enhanced.EventTransferred {
			least = len(wish.done)
		}
		if n := len(recorded[c]); n < least {
			report("has %d records of %d: %v", n, least, wish.done[0])
		}
		for _, op := range wish.done {
			if found := recorded[c]; op.Kind == Acquire && len(found) > 0 && found[0].Token != op.Lock.Token {
				report("record %d has token %d: %v", found[0].Sequence, found[0].Token, op)
			}
		}
	}
	single := make(map[uint64]Operation)
	for c, found := range recorded {
		wish := wishes[c]
		if wish == nil {
			wish = new(asked)
		}
		unknown := wish.unknown
		if byName := wishes[change{event: c.event, resource: c.resource}]; byName != nil && c.event == enhanced.EventReleased {
			unknown += byName.unknown
		}
		most := len(wish.done) + unknown
		if c.event != enhanced.EventRefreshed {
			most = min(most, 1)
		}
		switch n := len(found); {
		case c.event == enhanced.EventTimeout: // nobody asks for it
		case n > most:
			report("record %d, %s of token %d: there are %d, calls can have made %d", found[n-1].Sequence, c.event, found[n-1].Token, n, most)
		case n == 1 && len(wish.done) == 1 && unknown == 0:
			single[found[0].Sequence] = wish.done[0]
		}
	}
	return append(problems, order(single)...)
}

// order checks that of two changes the one that was answered before the other
// was asked for is the first in the log. It gets the operation of each record
// that one operation alone can have made.
func order(made map[uint64]Operation) (problems []string) {
	sequences := slices.Sorted(maps.Keys(made))
	// From the last to the first: none may have been asked for after one that
	// comes later in the log was answered.
	earliest := uint64(0)
	for _, sequence := range slices.Backward(sequences) {
		op := made[sequence]
		if earliest != 0 && made[earliest].Return < op.Call {
			problems = append(problems, fmt.Sprintf("record %d (%v) comes before %d (%v)", sequence, op, earliest, made[earliest]))
		}
		if earliest == 0 || op.Return < made[earliest].Return {
			earliest = sequence
		}
	}
	return problems
}
