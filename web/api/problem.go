package api

// Problem is every error of the API: RFC 9457 problem details with a code for
// programs and, where a lock stands in the way, that lock. It is an error.
//
// See https://www.rfc-editor.org/rfc/rfc9457.html
type Problem struct {
	Title          string          `json:"title" doc:"The status in words." example:"Conflict"`
	Status         int             `json:"status" doc:"The HTTP status." example:"409"`
	Detail         string          `json:"detail" doc:"What happened, for people." example:"acme/infra (path envs/prod, workspace default) is locked by user alice"`
	Code           string          `json:"code" doc:"What happened, for programs: a code of the lock errors, or the status in capitals." example:"LOCK_EXISTS"`
	Holder         *Lock           `json:"holder,omitempty" doc:"The lock that stands in the way."`
	OutcomeUnknown bool            `json:"outcome_unknown,omitempty" doc:"The change may have been made: look before repeating it."`
	Errors         []ProblemDetail `json:"errors,omitempty" doc:"Each thing that is wrong with the request."`
}

// ProblemDetail is one thing that is wrong with a request.
type ProblemDetail struct {
	Message  string `json:"message" example:"unexpected property"`
	Location string `json:"location,omitempty" doc:"Where." example:"body.owner.name"`
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ProblemContentType is the content type of a [Problem].
const ProblemContentType = "application/problem+json"

// ContentType returns the content type that the problem is sent with.
func (p *Problem) ContentType(string) string { return ProblemContentType }
