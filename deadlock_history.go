package enhanced

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// logPage is how many records of a log are read at a time.
const logPage = 1000

// ReadDeadlocks returns the records of deadlocks since a time: of one repository
// if it is given, else of all that have a log, the earliest first. The log is the
// history, so LogMaxAge and LogMaxRecords bound it. It is safe for concurrent use,
// and returns what it could read together with the error of what it could not.
func ReadDeadlocks(ctx context.Context, backend Backend, repository string, since time.Time) ([]*LogRecord, error) {
	repositories := []string{repository}
	if repository == "" {
		var err error
		if repositories, err = backend.ListRepositories(ctx); err != nil {
			return nil, err
		}
	}
	var found []*LogRecord
	for _, name := range repositories {
		for after, more := uint64(0), true; more; {
			page, err := backend.ReadLog(ctx, name, after, logPage)
			if err != nil {
				return found, err
			}
			for _, r := range page.Records {
				if r.Deadlock != nil && !r.Time.Before(since) {
					found = append(found, r)
				}
				after = r.Sequence
			}
			more = page.More && len(page.Records) > 0
		}
	}
	slices.SortStableFunc(found, func(x, y *LogRecord) int { return x.Time.Compare(y.Time) })
	return found, nil
}

// DeadlockPattern is a set of resources on which owners wait for each other again
// and again.
type DeadlockPattern struct {
	// Resources are those of the cycles, in a stable order.
	Resources []ResourceIdentifier
	// Count is how many deadlocks there were on them; a request that was refused
	// again counts again.
	Count       int
	First, Last time.Time
}

// SumDeadlocks returns the patterns of at least two deadlocks on the same
// resources, the most frequent first.
func SumDeadlocks(records []*LogRecord) []DeadlockPattern {
	byResources := make(map[string]*DeadlockPattern)
	for _, r := range records {
		if r.Deadlock == nil {
			continue
		}
		var names []string
		for _, w := range r.Deadlock.Cycle {
			names = append(names, FormatGraphResource(w.Resource))
		}
		slices.Sort(names)
		names = slices.Compact(names)
		key := strings.Join(names, "\x00\x00") // no resource's name has that
		pattern := byResources[key]
		if pattern == nil {
			pattern = &DeadlockPattern{First: r.Time}
			for _, name := range names {
				if resource, err := ParseGraphResource(name); err == nil {
					pattern.Resources = append(pattern.Resources, resource)
				}
			}
			byResources[key] = pattern
		}
		pattern.Count++
		pattern.Last = r.Time
	}
	var patterns []DeadlockPattern
	for _, p := range byResources {
		if p.Count > 1 {
			patterns = append(patterns, *p)
		}
	}
	slices.SortFunc(patterns, func(x, y DeadlockPattern) int {
		if x.Count != y.Count {
			return y.Count - x.Count
		}
		return strings.Compare(x.String(), y.String())
	})
	return patterns
}

// String says what to do about it.
func (p DeadlockPattern) String() string {
	names := make([]string, len(p.Resources))
	for i, r := range p.Resources {
		names[i] = r.String()
	}
	return fmt.Sprintf("%d deadlocks on %s: lock them together, or always in this order", p.Count, strings.Join(names, " and "))
}
