package enhanced

import (
	"context"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// history tells, from the store's log, whether locks have ended.
type history struct {
	backend Backend
	ends    map[string]map[ending]time.Time // by repository
}

type ending struct {
	Resource ResourceIdentifier `json:"resource"`
	Owner    string             `json:"owner"`
}

// historyPage is how many records are read at a time.
const historyPage = 1000

// hasEnded reports whether the lock that a record of the legacy database is of
// has ended in the store. A lock that is younger than its owner's last end there
// has not.
func (h *history) hasEnded(ctx context.Context, record models.ProjectLock) (bool, error) {
	resource := legacyResource(record)
	if h.ends[resource.Namespace] == nil {
		ends := make(map[ending]time.Time)
		for after, more := uint64(0), true; more; {
			page, err := h.backend.ReadLog(ctx, resource.Namespace, after, historyPage)
			if err != nil {
				return false, err
			}
			for _, r := range page.Records {
				after = r.Sequence
				if r.Before != nil && (r.After == nil || r.After.Owner != r.Before.Owner) {
					ends[ending{r.Resource, r.Before.Owner}] = r.Time
				}
			}
			more = page.More && len(page.Records) > 0
		}
		h.ends[resource.Namespace] = ends
	}
	end, known := h.ends[resource.Namespace][ending{resource, legacyOwner(record).String()}]
	return known && end.After(record.Time), nil
}
