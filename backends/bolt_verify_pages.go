package backends

import (
	"errors"
	"fmt"
	"os"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// verifyPages checks the file's own structure. It returns what forbids to use
// the file: nothing else in it can be checked then, and nothing be written.
func verifyPages(db *bbolt.DB, opened os.FileInfo) ([]enhanced.Violation, error) {
	unusable, _, err := verifyFile(db, opened)
	return unusable, err
}

// verifyFile is verifyPages with what does not forbid to use the file. For opened
// see [checkFile].
func verifyFile(db *bbolt.DB, opened os.FileInfo) (unusable, usable []enhanced.Violation, err error) {
	// bbolt's check reads what writers change, so it needs to be the writer.
	tx, err := db.Begin(!db.IsReadOnly())
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	damages, err := checkFile(tx, opened)
	if err != nil {
		return nil, nil, err
	}
	for _, damage := range damages {
		if damage.Usable {
			usable = append(usable, fileViolation(db, damage.Detail))
		} else {
			unusable = append(unusable, fileViolation(db, damage.Detail+"; "+restoreStep))
		}
	}
	// bbolt's check runs in a goroutine of its own: where it panics, as on what
	// was found, it ends the process.
	if len(damages) == 0 {
		unusable, usable = checkByBolt(tx)
	}
	return unusable, usable, nil
}

// lostPage is how bbolt's check ends what it says of a page that is neither in use
// nor free. It has no type for that.
const lostPage = ": unreachable unfreed"

// checkByBolt is bbolt's own check. Space can be lost where the list of free pages in
// memory comes from a file that had lost it.
func checkByBolt(tx *bbolt.Tx) (unusable, usable []enhanced.Violation) {
	var damages, lost []string
	for err := range tx.Check() {
		if page, isLost := strings.CutSuffix(err.Error(), lostPage); isLost {
			lost = append(lost, page+" is neither in use nor free: its space is lost until the file is opened again, and nothing else")
		} else {
			damages = append(damages, err.Error()+"; "+restoreStep)
		}
	}
	return fileViolations(tx.DB(), damages), fileViolations(tx.DB(), lost)
}

// fileViolations names the first damages of a file.
func fileViolations(db *bbolt.DB, details []string) (violations []enhanced.Violation) {
	for _, detail := range details[:min(len(details), maxFileDamages)] {
		violations = append(violations, fileViolation(db, detail))
	}
	if more := len(details) - len(violations); more > 0 {
		violations = append(violations, fileViolation(db, fmt.Sprintf("%d more of this kind", more)))
	}
	return violations
}

func fileViolation(db *bbolt.DB, detail string) enhanced.Violation {
	return enhanced.Violation{Rule: enhanced.RuleFile, Record: db.Path(), Detail: detail}
}
