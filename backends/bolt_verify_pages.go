package backends

import (
	"errors"
	"fmt"
	"os"

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
		unusable = checkByBolt(tx)
	}
	return unusable, usable, nil
}

func checkByBolt(tx *bbolt.Tx) (violations []enhanced.Violation) {
	found := 0
	for err := range tx.Check() {
		if found++; found <= maxFileDamages {
			violations = append(violations, fileViolation(tx.DB(), err.Error()+"; "+restoreStep))
		}
	}
	if found > maxFileDamages {
		violations = append(violations, fileViolation(tx.DB(), fmt.Sprintf("%d more of this kind", found-maxFileDamages)))
	}
	return violations
}

func fileViolation(db *bbolt.DB, detail string) enhanced.Violation {
	return enhanced.Violation{Rule: enhanced.RuleFile, Record: db.Path(), Detail: detail}
}
