package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"golang.org/x/sync/errgroup"
)

const (
	// importTimeout bounds one import.
	importTimeout = 2 * time.Minute
	// importWorkers take locks at the same time, so that they share the waits
	// for the disk.
	importWorkers = 32
)

func (s *server) registerImport() {
	register(s, importTimeout, huma.Operation{
		OperationID:     "import-locks",
		Summary:         "Take over locks of stock Atlantis",
		Description:     "Takes each lock for the pull request that held it, without lease, or says why not. A record that can't be taken leaves the others alone; an import can be repeated.",
		Method:          http.MethodPost,
		Path:            api.ImportPath,
		MaxBodyBytes:    api.MaxImportBytes,
		BodyReadTimeout: 15 * time.Second,
		Errors: []int{
			http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		},
	}, s.importLocks)
}

type importInput struct {
	Body api.ImportRequest
}

func (s *server) importLocks(ctx context.Context, input *importInput) (*body[api.ImportReport], error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	records := input.Body.Records
	report := api.ImportReport{DryRun: input.Body.DryRun, Results: make([]api.ImportResult, len(records))}
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(importWorkers)
	for _, indexes := range rivals(records) {
		workers.Go(func() error {
			for _, i := range indexes {
				var err error
				if report.Results[i], err = s.importRecord(ctx, store, records[i], input.Body.DryRun); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := workers.Wait(); err != nil {
		return nil, err
	}
	return &body[api.ImportReport]{report}, nil
}

// rivals groups the indexes of the records that exclude each other: the first
// one of a group is to win, every time. The groups can be taken at once.
func rivals(records []api.ImportRecord) map[string][]int {
	groups := make(map[string][]int)
	for i, record := range records {
		key := enhanced.ProjectResource(record.Lock.Project, record.Lock.Workspace).LegacyKey()
		groups[key] = append(groups[key], i)
	}
	return groups
}

// importRecord takes one lock, or says why not. Its error ends the import.
func (s *server) importRecord(ctx context.Context, store enhanced.Backend, record api.ImportRecord, dryRun bool) (api.ImportResult, error) {
	request, err := importRequest(record)
	var holder *enhanced.EnhancedLock
	var taken bool
	switch {
	case err != nil:
	case dryRun:
		holder, err = holderOf(ctx, store, request)
		taken = err == nil && holder == nil
	default:
		holder, taken, err = s.manager.TryAcquire(ctx, request)
	}
	if endsImport(err) {
		return api.ImportResult{}, err
	}
	return s.importResult(record.Key, request, holder, taken, err), nil
}

// endsImport reports whether err is about more than one record: the records
// after it would fail in the same way.
func endsImport(err error) bool {
	return errors.Is(err, enhanced.ErrBackend) || errors.Is(err, enhanced.ErrTimeout)
}

// importRequest asks for the lock that stock Atlantis has recorded, for the
// pull request that held it. Stock's locks have no lease.
func importRequest(record api.ImportRecord) (*enhanced.EnhancedLockRequest, error) {
	lock := enhanced.SanitizeProjectLock(record.Lock)
	if lock.Project.RepoFullName == "" || lock.Workspace == "" {
		return nil, enhanced.NewInvalidError("the record names no repository or no workspace")
	}
	return &enhanced.EnhancedLockRequest{
		Resource:    enhanced.ProjectResource(lock.Project, lock.Workspace),
		Priority:    enhanced.PriorityNormal,
		Timeout:     enhanced.NoTimeout,
		RequestedAt: lock.Time,
		User:        lock.User,
		Pull:        &lock.Pull,
	}, nil
}

// holderOf returns the lock that the request would be refused for, nil for none.
func holderOf(ctx context.Context, store enhanced.Backend, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, error) {
	normalized, err := enhanced.NormalizeRequest(request, time.Minute, time.Minute)
	if err != nil {
		return nil, err
	}
	resource := normalized.Resource
	holder, err := store.LookupLock(ctx, resource)
	if !errors.Is(err, enhanced.ErrLockNotFound) {
		return holder, err
	}
	// Resources with one key in stock's store exclude each other.
	others, err := store.LocksByLegacyKey(ctx, resource.LegacyKey())
	if err != nil || len(others) == 0 {
		return nil, err
	}
	return others[0], nil
}

// importResult says what became of the record, given what holds its resource.
func (s *server) importResult(key string, request *enhanced.EnhancedLockRequest, holder *enhanced.EnhancedLock, taken bool, err error) api.ImportResult {
	result := api.ImportResult{Key: key}
	switch {
	case err != nil:
		p := s.problem(err)
		result.Outcome, result.Code, result.Why = api.OutcomeSkipped, p.Code, p.Detail
	case taken:
		result.Outcome = api.OutcomeTaken
		if holder != nil {
			result.LockID = holder.ID
		}
	case holder.Resource == request.Resource && samePull(holder, request):
		result.Outcome, result.LockID = api.OutcomeAlready, holder.ID
	default:
		held := enhanced.NewHeldError(holder.Resource, holder)
		result.Outcome, result.Code, result.Why = api.OutcomeSkipped, held.Code, held.Message
		result.LockID = holder.ID
	}
	return result
}

// samePull reports whether the pull request of the request holds the lock. A
// record from before Atlantis stored the host matches on every host.
func samePull(holder *enhanced.EnhancedLock, request *enhanced.EnhancedLockRequest) bool {
	recorded, err := enhanced.ParseOwner(holder.Owner)
	if err != nil {
		return false
	}
	wanted := enhanced.PullOwner(request.Pull.BaseRepo.VCSHost.Hostname, request.Resource.Namespace, request.Pull.Num)
	return wanted.SamePull(recorded) || recorded.SamePull(wanted)
}
