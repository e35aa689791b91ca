package enhanced

import "context"

// Violation is something in a store that breaks one of its rules.
type Violation struct {
	// Rule names the rule that is broken, in a few words; the same for every
	// violation of one kind.
	Rule string
	// Record is where it is, as in BackendStats.UnreadableRecords.
	Record string
	// Repository is the name of the repository, empty where it is unknown.
	Repository string
	// Detail says what is wrong there.
	Detail string
	// Repair says what a repair would do.
	Repair string
}

// Verifier is a backend that can check what it has stored.
type Verifier interface {
	// Verify checks every rule that can be checked and returns what breaks
	// one. It changes nothing. On a store in use it sees one moment.
	Verify(ctx context.Context) ([]Violation, error)
	// Repair does what the Repair texts of Verify say, as of now, logs each
	// step, and returns what it repaired. A healthy store stays as it is.
	Repair(ctx context.Context, actor, reason string) ([]Violation, error)
}
