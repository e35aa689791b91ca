package web

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerLog() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "read-log",
		Summary:     "Read a repository's log",
		Description: "Every change of a lock has one record. The log is bounded by age and size: trimmed says what is gone.",
		Method:      http.MethodGet,
		Path:        api.LogPath,
		Errors:      []int{http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.readLog)
	register(s, operationTimeout, huma.Operation{
		OperationID: "list-repositories",
		Summary:     "List the repositories that have a log",
		Method:      http.MethodGet,
		Path:        api.RepositoriesPath,
		Errors:      []int{http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}, s.listRepositories)
}

type logInput struct {
	Repository string `query:"repository" doc:"The repository's full name. Has to be given, even where it is empty." example:"acme/infra"`
	After      uint64 `query:"after" maximum:"9007199254740991" doc:"The sequence after which to begin."`
	Limit      int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many records at most."`
}

// Resolve refuses a query without a repository: there is one whose name is empty.
func (*logInput) Resolve(ctx huma.Context) []error {
	if address := ctx.URL(); !address.Query().Has("repository") {
		return []error{&huma.ErrorDetail{Location: "query.repository", Message: "required query parameter is missing"}}
	}
	return nil
}

func (s *server) readLog(ctx context.Context, input *logInput) (*body[api.LogPage], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	page, err := store.ReadLog(ctx, input.Repository, input.After, input.Limit)
	if err != nil {
		return nil, err
	}
	view := api.LogPage{Records: []api.LogRecord{}, More: page.More, Trimmed: page.Trimmed}
	for _, record := range page.Records {
		view.Records = append(view.Records, recordView(record))
	}
	return &body[api.LogPage]{view}, nil
}

func (s *server) listRepositories(ctx context.Context, _ *struct{}) (*body[api.RepositoryList], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	names, err := store.ListRepositories(ctx)
	if err != nil {
		return nil, err
	}
	list := api.RepositoryList{Repositories: append([]string{}, names...)}
	slices.Sort(list.Repositories)
	return &body[api.RepositoryList]{list}, nil
}

// recordView returns the log record as the API shows it.
func recordView(r *enhanced.LogRecord) api.LogRecord {
	view := api.LogRecord{
		Repository:  r.Resource.Namespace,
		Sequence:    r.Sequence,
		Time:        r.Time.UTC(),
		Type:        r.Type,
		RequestID:   r.RequestID,
		Resource:    string(r.Resource.Type),
		Path:        r.Resource.Path,
		Workspace:   r.Resource.Workspace,
		ProjectName: r.Resource.Name,
		Token:       strconv.FormatInt(r.Token, 10),
		Actor:       r.Actor,
		Cause:       r.Cause,
		Reason:      r.Reason,
		Waiter:      r.Waiter,
		Deadlock:    deadlockView(r.Deadlock),
		Before:      stateView(r.Before),
		After:       stateView(r.After),
	}
	if r.Token > 0 {
		view.LockID = r.LockID
	}
	return view
}

func stateView(s *enhanced.LockSummary) *api.LockState {
	if s == nil {
		return nil
	}
	view := &api.LockState{OwnerID: s.Owner, Token: strconv.FormatInt(s.Token, 10), Note: s.Note}
	if s.ExpiresAt != nil {
		expires := s.ExpiresAt.UTC()
		view.ExpiresAt = &expires
	}
	return view
}
