package deadlock

import (
	"fmt"
	"strings"
)

// Edge says that a waiter waits for another owner.
type Edge struct {
	Waiter
	// For is who it waits for.
	For string
	// Soft says that For is before it in the queue. Otherwise For holds the
	// resource.
	Soft bool
}

// Cycle is a circle of waits: each edge's For is the next one's Owner, and the
// last one's is the first one's. No owner occurs twice. Each of its waiters
// breaks it by leaving its queue.
type Cycle []Edge

// Owners returns the owners in their order.
func (c Cycle) Owners() []string {
	owners := make([]string, len(c))
	for i, e := range c {
		owners[i] = e.Owner
	}
	return owners
}

// String says in words who waits for whom.
func (c Cycle) String() string {
	same := func(text string) string { return text }
	return c.Describe(same, same)
}

// Describe is String with other names for owners and resources.
func (c Cycle) Describe(owner, resource func(string) string) string {
	parts := make([]string, len(c))
	for i, e := range c {
		how := "held by"
		if e.Soft {
			how = "in the queue behind"
		}
		parts[i] = fmt.Sprintf("%s waits for %s, %s %s", owner(e.Owner), resource(e.Resource), how, owner(e.For))
	}
	return strings.Join(parts, "; ")
}

// rotated returns the cycle with its least edge first, so that one cycle has one
// form.
func (c Cycle) rotated() Cycle {
	first := 0
	for i := range c {
		if c[i].Owner < c[first].Owner {
			first = i
		}
	}
	return append(append(make(Cycle, 0, len(c)), c[first:]...), c[:first]...)
}
