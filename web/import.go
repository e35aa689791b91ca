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
	if _, err := s.store(ctx); err != nil {
		return nil, err
	}
	records := input.Body.Records
	report := api.ImportReport{DryRun: input.Body.DryRun, Results: make([]api.ImportResult, len(records))}
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(importWorkers)
	for _, indexes := range rivals(records) {
		workers.Go(func() error { return s.importRivals(ctx, records, indexes, &report) })
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

// importRivals takes the locks of the records with the indexes, one after the
// other, or only says what would become of them. Its error ends the import.
func (s *server) importRivals(ctx context.Context, records []api.ImportRecord, indexes []int, report *api.ImportReport) error {
	var requests []*enhanced.EnhancedLockRequest
	var asked []int
	for _, i := range indexes {
		request, err := importRequest(records[i])
		if err != nil {
			report.Results[i] = s.importResult(records[i].Key, nil, enhanced.Foreseen{Err: err})
			continue
		}
		requests, asked = append(requests, request), append(asked, i)
	}
	var foreseen []enhanced.Foreseen
	if report.DryRun {
		foreseen = s.manager.Foresee(ctx, requests)
	}
	for n, i := range asked {
		var answer enhanced.Foreseen
		if report.DryRun {
			answer = foreseen[n]
		} else {
			answer.Lock, answer.Acquired, answer.Err = s.manager.TryAcquire(ctx, requests[n])
		}
		if endsImport(answer.Err) {
			return answer.Err
		}
		report.Results[i] = s.importResult(records[i].Key, requests[n], answer)
	}
	return nil
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

// importResult says what became of the record, or would.
func (s *server) importResult(key string, request *enhanced.EnhancedLockRequest, answer enhanced.Foreseen) api.ImportResult {
	result := api.ImportResult{Key: key}
	holder := answer.Lock
	switch {
	case answer.Err != nil:
		p := s.problem(answer.Err)
		result.Outcome, result.Code, result.Why = api.OutcomeSkipped, p.Code, p.Detail
		return result
	case answer.Acquired:
		result.Outcome = api.OutcomeTaken
	case holder.Resource == request.Resource && samePull(holder, request):
		result.Outcome = api.OutcomeAlready
	default:
		held := enhanced.NewHeldError(holder.Resource, holder)
		result.Outcome, result.Code, result.Why = api.OutcomeSkipped, held.Code, held.Message
	}
	result.LockID = holder.ID
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
