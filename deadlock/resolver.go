package deadlock

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
)

// Policy says which waiter of a cycle gives up.
type Policy string

// The policies. Between equals the youngest waiter gives up, and between those
// of one age the one with the largest owner, resource and request, byte by byte:
// every observer of a cycle comes to the same victim, but for PolicyRandom.
const (
	// PolicyLowestPriority takes the waiter with the lowest priority. It hurts
	// those who ask with a low one: where cycles are frequent, always them.
	PolicyLowestPriority Policy = "lowest_priority"
	// PolicyYoungest takes who has waited for the shortest time. It hurts
	// newcomers, and loses the least waiting; nobody loses for ever.
	PolicyYoungest Policy = "youngest"
	// PolicyOldest takes who has waited for the longest time. It hurts the
	// patient, who lose all that waiting. For waits that are seldom wanted any
	// more the longer they last.
	PolicyOldest Policy = "oldest"
	// PolicyFewestLocks takes the owner that holds the fewest locks: the least work
	// has to be done again. It hurts small pull requests beside large ones.
	PolicyFewestLocks Policy = "fewest_locks"
	// PolicyMostLocks takes the owner that holds the most locks: when it gives up,
	// the most is freed. It hurts the large ones, and costs the most work.
	PolicyMostLocks Policy = "most_locks"
	// PolicyRandom takes any. It hurts everybody equally often.
	PolicyRandom Policy = "random"
	// PolicyNone takes nobody: cycles are reported, and stay until somebody leaves.
	// It hurts all who are in one.
	PolicyNone Policy = "none"
)

// Policies returns all policies, the default first.
func Policies() []Policy {
	return []Policy{
		PolicyLowestPriority, PolicyYoungest, PolicyOldest, PolicyFewestLocks, PolicyMostLocks, PolicyRandom, PolicyNone,
	}
}

// Resolver chooses the waiter of a cycle that gives up. Make it with
// [NewResolver]; it is safe for concurrent use.
type Resolver struct {
	policy Policy
	mu     sync.Mutex // protects random
	random *rand.Rand
}

// NewResolver returns one for a policy; an empty one is [PolicyLowestPriority].
// Only [PolicyRandom] uses the seed: equal seeds choose alike. It answers
// [ErrInvalid] for any other policy.
func NewResolver(policy Policy, seed uint64) (*Resolver, error) {
	policy = cmp.Or(policy, PolicyLowestPriority)
	if !slices.Contains(Policies(), policy) {
		return nil, fmt.Errorf("%w: policy %q is none of %v", ErrInvalid, policy, Policies())
	}
	return &Resolver{policy: policy, random: rand.New(rand.NewPCG(seed, 0))}, nil //nolint:gosec // no secret
}

// Policy returns the policy.
func (r *Resolver) Policy() Policy { return r.policy }

// Choose returns the waiter of a cycle that is to give up, and false for an empty
// cycle and for [PolicyNone]. The graph says how many locks each owner holds.
func (r *Resolver) Choose(g *Graph, c Cycle) (victim Waiter, found bool) {
	if len(c) == 0 || r.policy == PolicyNone {
		return Waiter{}, false
	}
	if r.policy == PolicyRandom {
		r.mu.Lock()
		defer r.mu.Unlock()
		return c[r.random.IntN(len(c))].Waiter, true
	}
	return slices.MinFunc(c, func(x, y Edge) int {
		return cmp.Or(r.compare(g, x.Waiter, y.Waiter), y.Since.Compare(x.Since), compareEdges(y, x))
	}).Waiter, true
}

// compare is negative when x is rather to give up than y.
func (r *Resolver) compare(g *Graph, x, y Waiter) int {
	switch r.policy {
	case PolicyLowestPriority:
		return cmp.Compare(x.Priority, y.Priority)
	case PolicyOldest:
		return x.Since.Compare(y.Since)
	case PolicyFewestLocks:
		return cmp.Compare(g.Locks(x.Owner), g.Locks(y.Owner))
	case PolicyMostLocks:
		return cmp.Compare(g.Locks(y.Owner), g.Locks(x.Owner))
	default: // PolicyYoungest, which is what decides between equals
		return 0
	}
}
