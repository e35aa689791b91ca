package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// verifyTimeout bounds a check of the store, which reads all of it, and a repair.
const verifyTimeout = 2 * time.Minute

func (s *server) registerVerify() {
	register(s, verifyTimeout, huma.Operation{
		OperationID: "verify-store",
		Summary:     "Check the store",
		Description: "Checks every rule that can be checked, and changes nothing.",
		Method:      http.MethodPost,
		Path:        api.VerifyPath,
		Errors:      []int{http.StatusUnprocessableEntity, http.StatusServiceUnavailable, http.StatusGatewayTimeout},
	}, s.verify)
	register(s, verifyTimeout, huma.Operation{
		OperationID: "repair-store",
		Summary:     "Repair the store",
		Description: "Does what the repair texts of a check say, as of now, and logs each. It never takes a readable lock away or makes one; " +
			"what can't be read is moved aside, and what was locked by it is free.",
		Method:       http.MethodPost,
		Path:         api.RepairPath,
		MaxBodyBytes: maxBody,
		Errors: []int{
			http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		},
	}, s.repair)
}

func (s *server) verify(ctx context.Context, _ *struct{}) (*body[api.Verification], error) {
	violations, err := s.manager.Verify(ctx)
	if err != nil {
		return nil, err
	}
	return &body[api.Verification]{api.Verification{Violations: violationViews(violations)}}, nil
}

type repairInput struct {
	Body api.RepairRequest
}

func (s *server) repair(ctx context.Context, input *repairInput) (*body[api.Repair], error) {
	repaired, err := s.manager.Repair(ctx, enhanced.UserOwner(input.Body.Actor).String(), input.Body.Reason)
	if err != nil {
		return nil, err
	}
	remaining, err := s.manager.Verify(ctx)
	if err != nil {
		return nil, err
	}
	return &body[api.Repair]{api.Repair{
		Repaired:  violationViews(repaired),
		Remaining: violationViews(remaining),
	}}, nil
}

func violationViews(violations []enhanced.Violation) []api.Violation {
	views := make([]api.Violation, len(violations))
	for i, v := range violations {
		views[i] = api.Violation(v)
	}
	return views
}
