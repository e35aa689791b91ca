package history

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// leaseSlack is by how much a lease may end earlier or later than it should,
	// beside a hundredth of it.
	leaseSlack = 5 * time.Millisecond
	// judgeLimit bounds the search for an order on one resource.
	judgeLimit = time.Minute
)

// History is what was asked of a store that was empty at first, and answered.
type History struct {
	// Seed is what the run was made from, for people.
	Seed uint64 `json:"seed,string"`
	// Slack widens the bounds within which a lease may end.
	Slack time.Duration `json:"slack"`
	// Delay is for how long a resource stays closed to others than its last owner after
	// the end of a lease, see [enhanced.EnhancedConfig.UncleanReleaseDelay].
	Delay time.Duration `json:"delay,omitempty"`
	// Operations are ordered by their calls.
	Operations []Operation `json:"operations"`
}

// Verdict says what is wrong with a history.
type Verdict struct {
	// Problems are empty for a legal history.
	Problems []string
	// Contended counts grants that another client wanted at the same time.
	Contended int
	// Unknown counts calls whose outcome is unknown.
	Unknown int
	// Grants counts acquires that got a lock.
	Grants int
}

// Legal reports whether nothing is wrong.
func (v *Verdict) Legal() bool { return len(v.Problems) == 0 }

// places groups the operations by resource, in a stable order.
func (h *History) places() (places []place, operations map[place][]Operation) {
	operations = make(map[place][]Operation)
	for _, op := range h.Operations {
		at := op.place()
		if operations[at] == nil {
			places = append(places, at)
		}
		operations[at] = append(operations[at], op)
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.repository, b.repository), cmp.Compare(a.resource, b.resource))
	})
	return places, operations
}

// Judge judges the history. That no order was found within a minute is a
// problem too.
func (h *History) Judge() *Verdict {
	v := new(Verdict)
	m := h.model()
	places, operations := h.places()
	for _, at := range places {
		switch porcupine.CheckOperationsTimeout(m.porcupine(), m.checkable(operations[at]), judgeLimit) {
		case porcupine.Illegal:
			v.Problems = append(v.Problems, fmt.Sprintf("%s: no lock that does one thing at a time gives these answers; %s",
				at, m.stuck(operations[at])))
		case porcupine.Unknown:
			v.Problems = append(v.Problems, fmt.Sprintf("%s: no order found within %v", at, judgeLimit))
		default:
		}
		v.count(operations[at])
	}
	v.Problems = append(v.Problems, h.judgeTokens()...)
	return v
}

// model returns the model that the history is judged by.
func (h *History) model() model {
	m := model{slack: h.Slack, delay: h.Delay, remembered: make(map[string]bool), unexplained: make(map[holder]int64), moments: h.moments()}
	sent := make(map[string]int)
	for _, op := range h.Operations {
		if op.Kind == Acquire {
			sent[op.Request]++
		}
	}
	granted := make(map[repositoryToken]bool)
	for _, op := range h.Operations {
		switch {
		case op.Kind != Acquire:
		case op.Answer == Done && op.Lock != nil && sent[op.Request] == 1:
			// One that was sent again may show what it got unheard.
			granted[repositoryToken{op.Repository, op.Lock.Token}] = true
		case op.Answer == Expired || op.Answer == Invalid:
			m.remembered[op.Request] = true
		}
	}
	for _, op := range h.Operations {
		if lock := op.Lock; lock != nil && !granted[repositoryToken{op.Repository, lock.Token}] {
			who := holder{op.place(), lock.Owner}
			m.unexplained[who] = max(m.unexplained[who], lock.Token)
		}
	}
	return m
}

// repositoryToken is a token of a repository: two repositories can have the same.
type repositoryToken struct {
	repository string
	token      int64
}

// moments returns, for lookups that were answered while a write was under way,
// when that write was sent. A store decides a write at one moment and shows it
// once it is stored, and stands still for readers in between: to one that saw a
// lease as ended that the write extends, the lock would be gone and then back.
func (h *History) moments() map[[2]int64]int64 {
	moments := make(map[[2]int64]int64)
	for _, op := range h.Operations {
		if op.Kind != Lookup {
			continue
		}
		at := op.Call
		for _, write := range h.Operations {
			if write.Kind != Lookup && write.Return != Never && write.Call < op.Return && write.Return > op.Call {
				at = min(at, write.Call)
			}
		}
		moments[[2]int64{int64(op.Client), op.Call}] = at
	}
	return moments
}

// checkable returns the operations as the checker takes them, with the one that
// stands for the end. It leaves out what can't matter, which saves the checker
// from trying it everywhere: calls that say that they did nothing, and acquires
// of unknown outcome of which no answer shows a trace.
func (m model) checkable(operations []Operation) []porcupine.Operation {
	operations = slices.DeleteFunc(slices.Clone(operations), func(op Operation) bool {
		return op.Answer == Nothing || op.Answer == Failed ||
			op.Answer == Unknown && op.Kind == Acquire && !m.remembered[op.Request] && m.unheard(op) == 0
	})
	var result []porcupine.Operation
	var last int64
	clients := 0
	for _, op := range operations {
		result = append(result, porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: op.Return})
		if last = max(last, op.Call); op.Return != Never {
			last = max(last, op.Return)
		}
		clients = max(clients, op.Client+1)
	}
	end := Operation{Kind: atEnd, Client: clients, Call: last + 1, Return: last + 1}
	return append(result, porcupine.Operation{ClientId: end.Client, Input: end, Call: end.Call, Return: end.Return})
}

// stuck describes where the longest order that explains the answers ends.
func (m model) stuck(operations []Operation) string {
	all := m.checkable(operations)
	_, info := porcupine.CheckOperationsVerbose(m.porcupine(), all, judgeLimit)
	var longest []porcupine.Operation
	for _, partial := range info.PartialLinearizationsOperations()[0] {
		if len(partial) > len(longest) {
			longest = partial
		}
	}
	explained := make(map[Operation]struct{})
	s := m.initial()
	for _, op := range longest {
		explained[op.Input.(Operation)] = struct{}{}
		s, _ = m.step(s, op.Input.(Operation))
	}
	var first Operation
	for _, op := range all {
		op := op.Input.(Operation)
		if _, ok := explained[op]; !ok && (first.Kind == "" || op.Return < first.Return) {
			first = op
		}
	}
	return fmt.Sprintf("after %d of %d the lock is %s, then nothing explains: %v", len(longest), len(all), s, first)
}

// count adds the figures of one resource.
func (v *Verdict) count(operations []Operation) {
	var acquires []Operation
	for _, op := range operations {
		if op.Answer == Unknown {
			v.Unknown++
		}
		if op.Kind == Acquire {
			acquires = append(acquires, op)
		}
	}
	for _, grant := range acquires {
		if grant.Answer != Done {
			continue
		}
		v.Grants++
		if slices.ContainsFunc(acquires, func(op Operation) bool {
			return op.Client != grant.Client && op.Answer != Unknown && op.Call <= grant.Return && grant.Call <= op.Return
		}) {
			v.Contended++
		}
	}
}

// judgeTokens checks what no resource alone can show: in one repository no two
// grants have one token, and a grant that was asked for after another was
// answered has the larger one.
func (h *History) judgeTokens() (problems []string) {
	asked := make(map[string]int)
	for _, op := range h.Operations {
		if op.Kind == Acquire {
			asked[op.Request]++
		}
	}
	grants := make(map[string][]Operation)
	for _, op := range h.Operations {
		// One that was repeated may be answered with an earlier grant.
		if op.Kind == Acquire && op.Answer == Done && op.Lock != nil && asked[op.Request] == 1 {
			grants[op.Repository] = append(grants[op.Repository], op)
		}
	}
	for repository, ops := range grants {
		byReturn := slices.SortedFunc(slices.Values(ops), func(a, b Operation) int { return cmp.Compare(a.Return, b.Return) })
		seen := make(map[int64]Operation)
		var largest Operation
		answered := 0
		for _, op := range ops { // ordered by call
			for ; answered < len(byReturn) && byReturn[answered].Return < op.Call; answered++ {
				if earlier := byReturn[answered]; largest.Lock == nil || earlier.Lock.Token > largest.Lock.Token {
					largest = earlier
				}
			}
			if largest.Lock != nil && op.Lock.Token <= largest.Lock.Token {
				problems = append(problems, fmt.Sprintf("%s: token %d was granted after %d: %v; %v",
					repository, op.Lock.Token, largest.Lock.Token, op, largest))
			}
			if other, ok := seen[op.Lock.Token]; ok {
				problems = append(problems, fmt.Sprintf("%s: one token for two grants: %v; %v", repository, op, other))
			}
			seen[op.Lock.Token] = op
		}
	}
	return problems
}

// WriteHTML writes a page that shows the history of every resource, with the
// orders that were found.
func (h *History) WriteHTML(w io.Writer) error {
	m := h.model()
	places, operations := h.places()
	checker := m.porcupine()
	checker.Partition = func([]porcupine.Operation) (parts [][]porcupine.Operation) {
		for _, at := range places {
			parts = append(parts, m.checkable(operations[at]))
		}
		return parts
	}
	_, info := porcupine.CheckOperationsVerbose(checker, nil, judgeLimit)
	return porcupine.Visualize(checker, info, w)
}
