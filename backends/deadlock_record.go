package backends

import (
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// deadlockRecord is the stored form of [enhanced.DeadlockReport].
type deadlockRecord struct {
	Outcome string         `json:"k"`
	Policy  string         `json:"p,omitzero"`
	Cycle   []deadlockWait `json:"c"`
	Moved   []deadlockWait `json:"m,omitempty"`
}

// deadlockWait is the stored form of [enhanced.DeadlockWait].
type deadlockWait struct {
	Owner    string `json:"o"`
	Resource string `json:"r"`
	// Repository is the resource's where it is not the log's: a user can wait in
	// several.
	Repository *string `json:"n,omitzero"`
	Request    string  `json:"q"`
	// Since is 0 where it is the time of the record.
	Since  int64  `json:"t"`
	For    string `json:"f,omitzero"`
	Behind bool   `json:"s,omitzero"`
}

func newDeadlockRecord(repository string, report *enhanced.DeadlockReport) *deadlockRecord {
	if report == nil {
		return nil
	}
	waits := func(all []enhanced.DeadlockWait) (stored []deadlockWait) {
		for _, w := range all {
			one := deadlockWait{
				Owner: w.Owner, Resource: w.Resource.Key(), Request: w.RequestID, Since: w.Since.UnixMicro(), For: w.For, Behind: w.Behind,
			}
			if w.Resource.Namespace != repository {
				one.Repository = &w.Resource.Namespace
			}
			stored = append(stored, one)
		}
		return stored
	}
	return &deadlockRecord{Outcome: report.Outcome, Policy: report.Policy, Cycle: waits(report.Cycle), Moved: waits(report.Moved)}
}

// report reads a record of a repository's log, nil for none.
func (r *deadlockRecord) report(repository string) (*enhanced.DeadlockReport, error) {
	if r == nil {
		return nil, nil
	}
	report := &enhanced.DeadlockReport{Outcome: r.Outcome, Policy: r.Policy}
	for _, part := range []struct {
		stored []deadlockWait
		waits  *[]enhanced.DeadlockWait
	}{{r.Cycle, &report.Cycle}, {r.Moved, &report.Moved}} {
		for _, w := range part.stored {
			namespace := repository
			if w.Repository != nil {
				namespace = *w.Repository
			}
			resource, err := enhanced.ParseResourceKey(namespace, w.Resource)
			if err != nil {
				return nil, err
			}
			*part.waits = append(*part.waits, enhanced.DeadlockWait{
				Owner: w.Owner, Resource: resource, RequestID: w.Request, Since: time.UnixMicro(w.Since), For: w.For, Behind: w.Behind,
			})
		}
	}
	return report, nil
}

// decodeDeadlock reads the text of a [deadlockRecord] that was stored at a time.
func decodeDeadlock(repository, text string, at int64) (*enhanced.DeadlockReport, error) {
	var r deadlockRecord
	if err := decode([]byte(text), &r); err != nil {
		return nil, err
	}
	for _, part := range [][]deadlockWait{r.Cycle, r.Moved} {
		for i := range part {
			if part[i].Since == 0 {
				part[i].Since = at
			}
		}
	}
	return r.report(repository)
}
