package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// statusOf is the one place that gives the codes of lock errors their HTTP
// status.
func statusOf(code string) int {
	switch code {
	case enhanced.ErrCodeInvalidRequest:
		return http.StatusUnprocessableEntity
	case enhanced.ErrCodePermissionDenied:
		return http.StatusForbidden
	case enhanced.ErrCodeLockNotFound:
		return http.StatusNotFound
	case enhanced.ErrCodeLockExists, enhanced.ErrCodeDeadlock:
		return http.StatusConflict
	case enhanced.ErrCodeLockExpired:
		return http.StatusGone
	case enhanced.ErrCodeQueueFull:
		return http.StatusTooManyRequests
	case enhanced.ErrCodeBackendError:
		return http.StatusServiceUnavailable
	case enhanced.ErrCodeTimeout:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// problem returns what the caller is told of an error. Causes stay here: they
// can hold what is none of the caller's business, such as the address of a
// store with its password. Only what is wrong with the request is told in full.
func (s *server) problem(err error) *api.Problem {
	if p := (*api.Problem)(nil); errors.As(err, &p) {
		return p
	}
	var lockError *enhanced.LockError
	if !errors.As(err, &lockError) {
		s.logger.Err("unexpected error: %s", redact(err.Error()))
		return newProblem(http.StatusInternalServerError, "unexpected error; the server's log says more")
	}
	p := newProblem(statusOf(lockError.Code), redact(lockError.Message))
	p.Code = lockError.Code
	p.OutcomeUnknown = errors.Is(err, enhanced.ErrOutcomeUnknown)
	if lockError.Holder != nil {
		holder := lockView(lockError.Holder)
		p.Holder = &holder
	}
	if lockError.Code == enhanced.ErrCodeInvalidRequest {
		p.Detail = redact(lockError.Error())
	}
	if lockError.Code == enhanced.ErrCodeTimeout && lockError.Holder != nil {
		return p // somebody has waited long enough, and nothing failed
	}
	if p.Status >= http.StatusInternalServerError {
		s.logger.Err("%s: %s", lockError.Code, redact(err.Error()))
		p.Detail += failing(p) + "; the server's log says more"
	}
	return p
}

// failing says behind what was to be done what became of it, without the cause.
func failing(p *api.Problem) string {
	switch {
	case p.OutcomeUnknown:
		return ": the store has not answered, outcome unknown"
	case p.Code == enhanced.ErrCodeBackendError:
		return ": the store failed"
	default:
		return ""
	}
}

func newProblem(status int, detail string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Detail: detail, Code: codeOf(status)}
}

// codeOf returns the code of a problem that is no lock error: the status in
// capitals, but for a request that is wrong.
func codeOf(status int) string {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return enhanced.ErrCodeInvalidRequest
	default:
		return strings.ToUpper(strings.ReplaceAll(http.StatusText(status), " ", "_"))
	}
}

// transformError turns an error that huma made into ours. It drops the values
// that huma repeats: a body can be large and can hold a credential.
func transformError(_ huma.Context, _ string, value any) (any, error) {
	model, ok := value.(*huma.ErrorModel)
	if !ok {
		return value, nil
	}
	p := newProblem(model.Status, model.Detail)
	for _, e := range model.Errors {
		if e != nil && model.Status < http.StatusInternalServerError {
			p.Errors = append(p.Errors, api.ProblemDetail{Message: e.Message, Location: e.Location})
		}
	}
	p.Detail = describe(model.Detail, p.Errors)
	return p, nil
}

// describe puts what is wrong into one line, so that the detail alone is enough.
func describe(summary string, details []api.ProblemDetail) string {
	const shown = 3
	parts := make([]string, 0, shown)
	for _, d := range details[:min(len(details), shown)] {
		parts = append(parts, strings.TrimPrefix(d.Location+": "+d.Message, ": "))
	}
	if len(parts) == 0 {
		return summary
	}
	return summary + ": " + strings.Join(parts, "; ")
}

// writeProblem answers a request that no operation has seen.
func writeProblem(w http.ResponseWriter, p *api.Problem) {
	w.Header().Set("Content-Type", api.ProblemContentType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone
}

// redact replaces the password of every URL in text.
func redact(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	// Compiled here because URLs with user information are rare.
	userinfo := regexp.MustCompile(`://([^/@:\s]*):[^/@\s]*@`)
	return userinfo.ReplaceAllString(text, "://$1:<redacted>@")
}
