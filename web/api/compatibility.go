package api

// CompatibilityPath is the path of the compatibility test.
const CompatibilityPath = Base + "/compatibility"

// CompatibilityReport is what a compatibility test has found.
type CompatibilityReport struct {
	Success bool                 `json:"success" doc:"Whether every check has passed: none failed, none was skipped."`
	Checks  []CompatibilityCheck `json:"checks" nullable:"false" doc:"The checks, in the order in which they were made."`
}

// CompatibilityCheck is one check of a compatibility test.
type CompatibilityCheck struct {
	Name         string  `json:"name" doc:"What was tried." example:"concurrency"`
	Milliseconds float64 `json:"milliseconds" doc:"How long it took." example:"12.5"`
	Result       string  `json:"result" enum:"passed,failed,skipped" doc:"What came of it."`
	Detail       string  `json:"detail" doc:"What went wrong, or why it was skipped; empty when passed."`
	Remedy       string  `json:"remedy" doc:"What to do about it; empty when passed."`
}
