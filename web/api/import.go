package api

import "github.com/runatlantis/atlantis/server/events/models"

// MaxImportRecords is how many records one import can carry.
const MaxImportRecords = 500

// MaxImportBytes is how large the body of an import can be.
const MaxImportBytes = 16 << 20

// ImportRequest carries locks of stock Atlantis.
type ImportRequest struct {
	DryRun  bool           `json:"dry_run,omitempty" doc:"Only look: say what would happen."`
	Records []ImportRecord `json:"records" nullable:"false" minItems:"1" maxItems:"500"`
}

// ImportRecord is one lock of stock Atlantis.
type ImportRecord struct {
	Key  string             `json:"key" doc:"The record's key in stock's store, to recognise it in the answer." example:"acme/infra/envs/prod/default/"`
	Lock models.ProjectLock `json:"lock" doc:"The record as stock writes it. Leave CloneURL empty: it holds a credential, and is dropped."`
}

// Outcomes of an [ImportResult].
const (
	// OutcomeTaken: the lock is held for its owner now; in a dry run, would be.
	OutcomeTaken = "taken"
	// OutcomeAlready: its owner holds it here already.
	OutcomeAlready = "already"
	// OutcomeSkipped: nothing was done; Code and Why say why.
	OutcomeSkipped = "skipped"
)

// ImportResult says what became of one record.
type ImportResult struct {
	Key     string `json:"key"`
	Outcome string `json:"outcome" enum:"taken,already,skipped"`
	LockID  string `json:"lock_id,omitempty" doc:"The lock that is held now; none for what a dry run would take."`
	Code    string `json:"code,omitempty" doc:"Why a record was skipped, for programs. LOCK_EXISTS: another owner holds it." example:"LOCK_EXISTS"`
	Why     string `json:"why,omitempty" doc:"Why a record was skipped, for people."`
}

// ImportReport is the answer to an import: a result for each record, in order.
type ImportReport struct {
	DryRun  bool           `json:"dry_run"`
	Results []ImportResult `json:"results" nullable:"false"`
}
