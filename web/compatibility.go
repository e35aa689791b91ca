package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerCompatibility() {
	register(s, verifyTimeout, huma.Operation{
		OperationID: "test-compatibility",
		Summary:     "Test whether Atlantis could use the locks",
		Description: "Takes and releases locks as Atlantis does, in repositories whose names start with \"" + enhanced.CompatibilityNamespace +
			"\", and nothing else.",
		Method: http.MethodPost,
		Path:   api.CompatibilityPath,
		Errors: []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout},
	}, s.testCompatibility)
}

func (s *server) testCompatibility(ctx context.Context, _ *struct{}) (*body[api.CompatibilityReport], error) {
	report, err := s.manager.RunCompatibilityTest(ctx)
	if err != nil {
		return nil, err
	}
	return &body[api.CompatibilityReport]{CompatibilityView(report)}, nil
}

// CompatibilityView is the API's form of a report.
func CompatibilityView(report *enhanced.CompatibilityReport) api.CompatibilityReport {
	view := api.CompatibilityReport{Success: report.Success, Checks: make([]api.CompatibilityCheck, len(report.Checks))}
	for i, check := range report.Checks {
		view.Checks[i] = api.CompatibilityCheck{
			Name: check.Name, Milliseconds: float64(check.Duration.Microseconds()) / 1000,
			Result: check.Result, Detail: check.Detail, Remedy: check.Remedy,
		}
	}
	return view
}
