package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerDeadlocks() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "list-deadlocks",
		Summary:     "List deadlocks of the past, and the resources that have them again and again",
		Description: "It is read from the logs of the repositories, whose bounds are its own.",
		Method:      http.MethodGet,
		Path:        api.DeadlocksPath,
		Errors:      []int{http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.listDeadlocks)
}

type deadlocksInput struct {
	Repository string    `query:"repository" doc:"Only those in this repository." example:"acme/infra"`
	Since      time.Time `query:"since" doc:"Only those since then." example:"2026-01-31T00:00:00Z"`
}

func (s *server) listDeadlocks(ctx context.Context, input *deadlocksInput) (*body[api.DeadlockList], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	records, err := enhanced.ReadDeadlocks(ctx, store, input.Repository, input.Since)
	if err != nil {
		return nil, err
	}
	list := api.DeadlockList{Deadlocks: []api.LogRecord{}, Patterns: []api.DeadlockPattern{}}
	for _, r := range records[max(0, len(records)-api.MaxLogRecords):] {
		list.Deadlocks = append(list.Deadlocks, recordView(r))
	}
	for _, p := range enhanced.SumDeadlocks(records) {
		view := api.DeadlockPattern{Resources: []api.PatternResource{}, Count: p.Count, First: p.First.UTC(), Last: p.Last.UTC(), Text: p.String()}
		for _, r := range p.Resources {
			view.Resources = append(view.Resources, api.PatternResource{
				Repository: r.Namespace, Path: r.Path, Workspace: r.Workspace, ProjectName: r.Name,
			})
		}
		list.Patterns = append(list.Patterns, view)
	}
	return &body[api.DeadlockList]{list}, nil
}

func deadlockView(r *enhanced.DeadlockReport) *api.Deadlock {
	if r == nil {
		return nil
	}
	return &api.Deadlock{
		Outcome: r.Outcome, Policy: r.Policy, Text: r.String(),
		Cycle: append([]api.DeadlockWait{}, waitViews(r.Cycle)...), Moved: waitViews(r.Moved),
	}
}

func waitViews(waits []enhanced.DeadlockWait) (views []api.DeadlockWait) {
	for _, w := range waits {
		views = append(views, api.DeadlockWait{
			OwnerID: w.Owner, Type: string(w.Resource.Type), Repository: w.Resource.Namespace, Path: w.Resource.Path,
			Workspace: w.Resource.Workspace, ProjectName: w.Resource.Name, RequestID: w.RequestID,
			Since: w.Since.UTC(), WaitsFor: w.For, Behind: w.Behind,
		})
	}
	return views
}
